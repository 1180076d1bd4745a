// The frame layout of lib/core/packet.ts, and what a packet's own headers say about its checksum and segmentation.
#pragma once
#include <cstdint>
#include <cstring>

namespace kubebus {

// struct virtio_net_hdr of VIRTIO 1.2 section 5.1.6, in host byte order as TUN uses it. Written out because the kernel's header
// of some distributions does not compile as C++.
struct Vnet {
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
constexpr uint8_t kVnetNeedsCsum = 1;
constexpr uint8_t kVnetTcp4 = 1, kVnetTcp6 = 4, kVnetUdp = 5, kVnetEcn = 0x80;

constexpr size_t kHeader = 8;
constexpr size_t kMaxPacket = 40 + 65535;
constexpr size_t kVnet = 10;
constexpr uint8_t kGsoTcp = 1, kGsoUdp = 2, kGsoEcn = 4, kPartial = 8;

inline uint16_t Get16(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
inline uint32_t Get32(const uint8_t* p) { return uint32_t(p[0]) << 24 | uint32_t(p[1]) << 16 | uint32_t(p[2]) << 8 | p[3]; }
inline void Put16(uint8_t* p, uint16_t v) { p[0] = v >> 8; p[1] = v & 0xff; }
inline void Put32(uint8_t* p, uint32_t v) { p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = v; }

// Where the transport header of a packet starts, and what it is. Extension headers and fragments are not looked
// through: such a packet never carries offload.
struct Layers {
  bool ok = false;
  bool v6 = false;
  uint8_t protocol = 0;
  uint16_t l4 = 0;         // offset of the TCP or UDP header
  uint16_t headers = 0;    // offset of the payload
  uint16_t checksum = 0;   // offset of the checksum in the transport header
};

inline Layers Parse(const uint8_t* p, size_t n) {
  Layers l;
  if (n < 20) return l;
  if (p[0] >> 4 == 4) {
    l.l4 = (p[0] & 15) * 4;
    if (l.l4 < 20 || Get16(p + 2) != n || (Get16(p + 6) & 0x3fff) != 0) return l;
    l.protocol = p[9];
  } else if (p[0] >> 4 == 6 && n >= 40) {
    l.v6 = true;
    l.l4 = 40;
    if (size_t(Get16(p + 4)) + 40 != n) return l;
    l.protocol = p[6];
  } else {
    return l;
  }
  if (l.protocol == 6) {
    if (n < size_t(l.l4) + 20) return l;
    l.headers = l.l4 + (p[l.l4 + 12] >> 4) * 4;
    l.checksum = 16;
    if (l.headers < l.l4 + 20 || l.headers > n) return l;
  } else if (l.protocol == 17) {
    if (n < size_t(l.l4) + 8) return l;
    l.headers = l.l4 + 8;
    l.checksum = 6;
  } else {
    return l;
  }
  l.ok = true;
  return l;
}

inline void PutFrame(uint8_t* h, uint8_t flags, uint16_t gso, uint32_t length) {
  h[0] = 0;
  h[1] = flags;
  Put16(h + 2, gso);
  Put32(h + 4, length);
}

// Internet checksum (RFC 1071) of n bytes, not folded; the compiler makes vector code of the loop.
inline uint64_t Sum(const uint8_t* p, size_t n, uint64_t sum = 0) {
  while (n >= 4) {
    uint32_t w;
    memcpy(&w, p, 4);
    sum += w;
    p += 4;
    n -= 4;
  }
  if (n >= 2) {
    uint16_t w;
    memcpy(&w, p, 2);
    sum += w;
    p += 2;
    n -= 2;
  }
  if (n) {
    uint16_t w = 0;
    memcpy(&w, p, 1);
    sum += w;
  }
  return sum;
}

inline uint16_t Fold(uint64_t s) {
  s = (s & 0xffffffff) + (s >> 32);
  s = (s & 0xffffffff) + (s >> 32);
  s = (s & 0xffff) + (s >> 16);
  s = (s & 0xffff) + (s >> 16);
  return static_cast<uint16_t>(s);
}

// Sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) in memory byte order, not folded.
inline uint64_t Pseudo(const uint8_t* p, const Layers& l, uint32_t l4length) {
  uint64_t s = l.v6 ? Sum(p + 8, 32) : Sum(p + 12, 8);
  uint8_t tail[8] = {0, 0, 0, 0, 0, 0, 0, l.protocol};
  Put32(tail, l4length);
  return Sum(tail, 8, s);
}

}  // namespace kubebus
