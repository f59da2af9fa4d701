// What every backward operator does to the cotangent of its input before storing it, for bodies
// that use common/lanes_body.h:  out = pull_back(value + other, x_mask, x_slope).

template <typename Storage>
struct Epilogue {
  Storage* out;                // at the lanes' first element, like the next two
  const Storage* other;        // null, or may be out
  const std::uint8_t* x_mask;  // or null
  float x_slope;
};

template <typename Storage>
SIGN_EXT_INLINE Epilogue<Storage> epilogue_at_row(Epilogue<Storage> all_rows, std::int64_t row,
                                                  std::ptrdiff_t channels) {
  all_rows.out += row * channels;
  if (all_rows.other != nullptr) all_rows.other += row * channels;
  if (all_rows.x_mask != nullptr) all_rows.x_mask += row * mask_row_bytes(channels);
  return all_rows;
}

template <typename Storage, typename Span>
SIGN_EXT_INLINE void store_cotangent(Epilogue<Storage> row, std::ptrdiff_t channel, Floats value,
                                     Span span) {
  if (row.other != nullptr) value = plus(value, load(row.other + channel, span));
  if (row.x_mask != nullptr) {
    const Bits bits = load_bits(row.x_mask + (channel >> 3), span);
    value = row.x_slope == 0.0f ? or_zero(bits, value)
                                : select(bits, value, times(value, all(row.x_slope)));
  }
  store(row.out + channel, as_stored(row.out, value), span);
}
