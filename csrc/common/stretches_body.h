// Rows of channels, as the longest stretches of memory that a kernel may stream over in one pass.
// Bodies of common/for_each_target.h include this file after common/stream_body.h.

namespace {

static_assert(std::endian::native == std::endian::little, "bit masks are read as whole words");

// The most elements in a stretch that joins some but not all rows; the length of the arrays of
// repeated constants.
constexpr std::int64_t kStretch = 512;

// Bytes for the bits of such a stretch, plus one word that may be read or written past them.
constexpr std::int64_t kStretchBytes = kStretch / 8 + 8;

struct Stretch {
  std::int64_t element;  // the first
  std::int64_t count;
  std::int64_t byte;  // the first, in the bit mask
  std::int64_t rows;
  // In a bit mask each row starts on a byte boundary. If rows do not end on one, their bits lie
  // elsewhere than in the stretch; bits_to_rows and rows_to_bits convert.
  bool ragged;
};

// Calls body(Stretch) over rows [begin, end). If there are per-channel constants, it calls
// constants(channel, count, times) whenever the next stretches need different ones: those of
// channels [channel, channel + count), repeated `times` times.
template <typename Constants, typename Body>
inline void for_each_stretch(std::int64_t begin, std::int64_t end, std::int64_t channels,
                             bool has_mask, bool has_constants, Constants constants, Body body) {
  if (begin >= end || channels == 0) return;
  const std::int64_t row_bytes = (channels + 7) / 8;
  const bool whole_bytes = !has_mask || channels % 8 == 0;
  if (whole_bytes && !has_constants) {
    body(
        Stretch{begin * channels, (end - begin) * channels, begin * row_bytes, end - begin, false});
    return;
  }
  const std::int64_t most = has_constants ? kStretch : channels;
  for (std::int64_t channel = 0; channel < channels; channel += most) {
    const std::int64_t count = channels - channel < most ? channels - channel : most;
    std::int64_t joined = count == channels && channels < kStretch ? kStretch / channels : 1;
    // A power of two, so that stretches begin on vector boundaries and seldom end inside a vector.
    while ((joined & (joined - 1)) != 0) joined &= joined - 1;
    if (joined > end - begin) joined = end - begin;
    if (has_constants) constants(channel, count, joined);
    for (std::int64_t row = begin; row < end; row += joined) {
      const std::int64_t rows = end - row < joined ? end - row : joined;
      body(Stretch{row * channels + channel, rows * count, row * row_bytes + channel / 8, rows,
                   !whole_bytes && joined > 1});
    }
  }
}

// The repeated constants that for_each_stretch asks for; `missing` if the constant is null.
inline void repeat_constant(const float* constant, float missing, std::int64_t channel,
                            std::int64_t count, std::int64_t times, float* repeated) {
  for (std::int64_t i = 0; i < count; ++i) {
    repeated[i] = constant == nullptr ? missing : constant[channel + i];
  }
  for (std::int64_t done = count; done < count * times;) {  // doubles each time
    const std::int64_t more = done < count * times - done ? done : count * times - done;
    std::memcpy(repeated + done, repeated, static_cast<std::size_t>(more) * sizeof(float));
    done += more;
  }
}

// Copies the bits of a ragged stretch, stored contiguously, to the rows of a bit mask.
inline void bits_to_rows(const std::uint8_t* bits, std::int64_t rows, std::int64_t channels,
                         std::uint8_t* mask) {
  const std::int64_t row_bytes = (channels + 7) / 8;
  std::uint8_t* const end = mask + rows * row_bytes;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t channel = 0; channel < channels; channel += 56) {  // 64 bits less a shift
      const std::int64_t count = channels - channel < 56 ? channels - channel : 56;
      const auto first = static_cast<std::uint64_t>(row * channels + channel);
      std::uint64_t word;
      std::memcpy(&word, bits + first / 8, sizeof(word));
      word = lowest_bits(word >> (first % 8), count);
      std::uint8_t* const to = mask + row * row_bytes + channel / 8;
      if (end - to >= 8) {  // the excess is overwritten next
        std::memcpy(to, &word, sizeof(word));
        continue;
      }
      for (std::int64_t byte = 0; byte < (count + 7) / 8; ++byte) {
        to[byte] = static_cast<std::uint8_t>(word >> (8 * byte));
      }
    }
  }
}

// Copies the rows of a bit mask to contiguous bits.
inline void rows_to_bits(const std::uint8_t* mask, std::int64_t rows, std::int64_t channels,
                         std::uint8_t* bits) {
  const std::int64_t row_bytes = (channels + 7) / 8;
  const std::uint8_t* const end = mask + rows * row_bytes;
  std::uint64_t held = 0;
  std::int64_t held_count = 0;  // below 32
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t channel = 0; channel < channels; channel += 32) {
      const std::int64_t count = channels - channel < 32 ? channels - channel : 32;
      const std::uint8_t* const from = mask + row * row_bytes + channel / 8;
      std::uint32_t word = 0;
      if (end - from >= 4) {
        std::memcpy(&word, from, sizeof(word));
      } else {
        for (std::int64_t byte = 0; byte < (count + 7) / 8; ++byte) {
          word |= static_cast<std::uint32_t>(from[byte]) << (8 * byte);
        }
      }
      held |= lowest_bits(word, count) << held_count;
      held_count += count;
      if (held_count < 32) continue;
      std::memcpy(bits, &held, 4);
      bits += 4;
      held >>= 32;
      held_count -= 32;
    }
  }
  std::memcpy(bits, &held, sizeof(held));
}

}  // namespace
