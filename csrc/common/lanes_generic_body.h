// common/lanes_body.h in the compiler's own vector types, for any processor: the compiler maps 8
// lanes to whatever the processor has.

constexpr int kLanes = 8;
using Floats = float __attribute__((vector_size(32), aligned(16)));
using Ints = int __attribute__((vector_size(32), aligned(16)));
using Words = std::uint32_t __attribute__((vector_size(32), aligned(16)));
using Halves = std::uint16_t __attribute__((vector_size(16)));
struct Bits {
  Ints lanes;  // -1 or 0
};

SIGN_EXT_INLINE Floats all(float value) { return Floats{} + value; }
SIGN_EXT_INLINE Ints all(int value) { return Ints{} + value; }
SIGN_EXT_INLINE Ints lane_numbers() { return Ints{0, 1, 2, 3, 4, 5, 6, 7}; }

SIGN_EXT_INLINE Bits lanes_of(Whole) { return {all(-1)}; }
SIGN_EXT_INLINE Bits lanes_of(Part part) { return {lane_numbers() < part.count}; }

SIGN_EXT_INLINE Floats load(const float* from, Whole) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}
SIGN_EXT_INLINE Floats load(const std::uint16_t* from, Whole) {
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof(halves));
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
}
template <typename Storage>
SIGN_EXT_INLINE Floats load(const Storage* from, Part part) {
  Storage copy[8] = {};
  for (int i = 0; i < part.count; ++i) copy[i] = from[i];
  return load(copy, Whole{});
}

SIGN_EXT_INLINE Floats as_stored(const float*, Floats value) { return value; }
SIGN_EXT_INLINE Floats as_stored(const std::uint16_t*, Floats value) {
  const Words bits = (Words)value;
  const Words rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const Words number = (Words)(value == value);
  return (Floats)(((rounded & number) | (0x7fc00000u & ~number)) & 0xffff0000u);
}
SIGN_EXT_INLINE void store(float* to, Floats value, Whole) {
  __builtin_memcpy(to, &value, sizeof(value));
}
SIGN_EXT_INLINE void store(std::uint16_t* to, Floats value, Whole) {
  const Halves halves = __builtin_convertvector((Words)value >> 16, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
template <typename Storage>
SIGN_EXT_INLINE void store(Storage* to, Floats value, Part part) {
  Storage copy[8];
  store(copy, value, Whole{});
  for (int i = 0; i < part.count; ++i) to[i] = copy[i];
}

SIGN_EXT_INLINE Floats plus(Floats a, Floats b) { return a + b; }
SIGN_EXT_INLINE Floats times(Floats a, Floats b) { return a * b; }
SIGN_EXT_INLINE Floats times_plus(Floats a, Floats b, Floats c) { return a * b + c; }

SIGN_EXT_INLINE Bits greater(Floats a, Floats b) { return {a > b}; }
SIGN_EXT_INLINE Bits is_nan(Floats value) { return {value != value}; }
SIGN_EXT_INLINE Bits either(Bits a, Bits b) { return {a.lanes | b.lanes}; }
SIGN_EXT_INLINE Bits both(Bits a, Bits b) { return {a.lanes & b.lanes}; }
SIGN_EXT_INLINE Bits between(Floats value, Floats low, Floats high) {
  return {~((value <= low) | (value >= high))};
}
SIGN_EXT_INLINE Bits and_numbers(Bits bits, Floats a, Floats b) {
  return {bits.lanes & (a == a) & (b == b)};
}
SIGN_EXT_INLINE Bits equal(Ints a, Ints b) { return {a == b}; }
SIGN_EXT_INLINE Ints select(Bits bits, Ints yes, Ints no) {
  return (yes & bits.lanes) | (no & ~bits.lanes);
}
SIGN_EXT_INLINE Floats select(Bits bits, Floats yes, Floats no) {
  return (Floats)select(bits, (Ints)yes, (Ints)no);
}
SIGN_EXT_INLINE Floats maximum(Floats a, Floats b) { return select(greater(a, b), a, b); }
SIGN_EXT_INLINE Floats minimum(Floats a, Floats b) { return select(greater(b, a), a, b); }
SIGN_EXT_INLINE Floats or_zero(Bits bits, Floats value) {
  return (Floats)((Ints)value & bits.lanes);
}
SIGN_EXT_INLINE Floats plus_where(Bits bits, Floats a, Floats b) {
  return plus(a, or_zero(bits, b));
}

SIGN_EXT_INLINE unsigned to_word(Bits bits) {
  const Words places = (Words)bits.lanes & Words{1, 2, 4, 8, 16, 32, 64, 128};
  return places[0] + places[1] + places[2] + places[3] + places[4] + places[5] + places[6] +
         places[7];
}
SIGN_EXT_INLINE bool every(Bits bits) { return to_word(bits) == 0xffu; }
SIGN_EXT_INLINE Bits from_word(unsigned word) {
  const Words places = {1, 2, 4, 8, 16, 32, 64, 128};
  return {(places & word) == places};
}
