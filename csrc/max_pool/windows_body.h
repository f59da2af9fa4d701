// Windows as max_pool_backward reads them, and 3x3 windows of stride 2, for
// max_pool_backward_cpu_body.h.

// The windows of a row of g, starting at the first window's first channel.
template <typename Storage>
struct Windows {
  const Storage* g;
  const std::uint8_t* index;
  const std::uint8_t* mask;  // or null
  float slope;
};

template <int kBits, typename Storage>
SIGN_EXT_INLINE Windows<Storage> window_at(Windows<Storage> all_windows, std::int64_t number,
                                           std::ptrdiff_t channels) {
  all_windows.g += number * channels;
  all_windows.index += number * mask_row_bytes(channels) * kBits;
  if (all_windows.mask != nullptr) all_windows.mask += number * mask_row_bytes(channels);
  return all_windows;
}

// g pulled back through max_pool's own activation.
template <typename Storage, typename Span>
SIGN_EXT_INLINE Floats cotangent_of(Windows<Storage> window, std::ptrdiff_t channel, Span span) {
  const Floats g = load(window.g + channel, span);
  if (window.mask == nullptr) return g;
  const Bits bits = load_bits(window.mask + (channel >> 3), span);
  return window.slope == 0.0f ? or_zero(bits, g) : select(bits, g, times(g, all(window.slope)));
}

// One row of the input under kRows rows of 3x3 windows with horizontal stride 2. Window ow shares
// its first column with the window to its left, and is alone over its second: reading ow once
// serves both columns, which are written for ow in [span.first, span.end). `rows` start at window
// 0, and kh is the row of those windows that covers the input row; `to` starts at the first column.
template <int kRows, int kBits, typename Storage, typename Span>
[[gnu::noinline]] void gather_pairs(const Windows<Storage> (&rows)[2], const int (&kh)[2],
                                    PoolSpan span, Epilogue<Storage> to, std::ptrdiff_t channels,
                                    std::ptrdiff_t first, std::ptrdiff_t end, Span lanes) {
  Windows<Storage> left[kRows];
  Fields columns[kRows][3];
  for (int r = 0; r < kRows; ++r) {
    left[r] = window_at<kBits>(rows[r], span.first - 1, channels);
    for (int kw = 0; kw < 3; ++kw) columns[r][kw] = fields_of<kBits>(kh[r] * 3 + kw);
  }
  for (int ow = span.first; ow < span.end; ++ow) {
    const Epilogue<Storage> right = epilogue_at_row(to, 1, channels);
    for (std::ptrdiff_t channel = first; channel < end; channel += kLanes) {
      Floats shared = all(0.0f);
      Floats alone = all(0.0f);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        const Windows<Storage> here = window_at<kBits>(left[r], 1, channels);
        const std::ptrdiff_t group = (channel >> 3) * kBits;
        const Fields left_fields = load_index<kBits>(left[r].index + group, lanes);
        const Fields fields = load_index<kBits>(here.index + group, lanes);
        const Floats left_g = cotangent_of(left[r], channel, lanes);
        const Floats g = cotangent_of(here, channel, lanes);
        shared = plus_where(equal(left_fields, columns[r][2]), shared, left_g);
        shared = plus_where(equal(fields, columns[r][0]), shared, g);
        alone = plus_where(equal(fields, columns[r][1]), alone, g);
      }
      store_cotangent(to, channel, shared, lanes);
      store_cotangent(right, channel, alone, lanes);
    }
    for (int r = 0; r < kRows; ++r) left[r] = window_at<kBits>(left[r], 1, channels);
    to = epilogue_at_row(right, 1, channels);
  }
}
