// The addon for Linux: the TUN device and a few socket options here, connected sockets in stream.cc. No policy: what to open,
// route and drop is decided in TypeScript.
//
//   new Tun(name, flags)   flags: 1 = ask for offload, 2 = multi-queue; throws {code}
//   .name .offload         offload: bits 1 vnet header + checksum, 2 TSO, 4 USO
//   .start(callback)       callback(0) when readable, callback(errno) when the device is gone
//   .pause() .resume() .close() .plain()    plain: writes no super-packets of its own any more
//   .readBatch(buf, start, limit, maxPackets) -> end       frames, back to back
//   .writeBatch(buf, start, end) -> packets written; -1 when the kernel takes no super-packets although it said so
//   .counters              Float64Array in the order of enum Counter
//   setSocketOption(fd, level, name, value)
//   setRealtime(on) -> 0 or errno          this thread runs before all that are not real-time (its children do not), or as one of them
//   netAdminForChildren(on)   true: this thread's children may have CAP_NET_ADMIN too
#include <napi.h>
#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include <memory>
#include <string>

#include "frame.h"
#include "poll.h"
#include "stream.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace kubebus {

enum Counter { kInvalid, kFull, kRejected, kCoalesced, kWritten, kRead, kSplit, kCounters };

// So many super-packets refused, and none ever taken: the kernel does not do what it promised. One refused packet is a
// hostile packet, not a reason to give the offload up.
constexpr int kRefusals = 4;

class Tun : public Napi::ObjectWrap<Tun> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Tun",
                       {InstanceMethod<&Tun::Start>("start"), InstanceMethod<&Tun::Pause>("pause"),
                        InstanceMethod<&Tun::Resume>("resume"), InstanceMethod<&Tun::Close>("close"),
                        InstanceMethod<&Tun::ReadBatch>("readBatch"), InstanceMethod<&Tun::WriteBatch>("writeBatch"),
                        InstanceMethod<&Tun::Plain>("plain"), InstanceAccessor<&Tun::Name>("name"),
                        InstanceAccessor<&Tun::Offload>("offload"), InstanceAccessor<&Tun::Counters>("counters")});
  }

  explicit Tun(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Tun>(info) {
    Napi::Env env = info.Env();
    std::string name = info[0].As<Napi::String>();
    uint32_t flags = info[1].As<Napi::Number>().Uint32Value();
    if (name.size() >= IFNAMSIZ) {
      Throw(env, "interface name", ENAMETOOLONG);
      return;
    }
    fd_ = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd_ < 0) {
      Throw(env, "open /dev/net/tun", errno);
      return;
    }
    struct ifreq ifr;
    memset(&ifr, 0, sizeof ifr);
    ifr.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (flags & 2 ? IFF_MULTI_QUEUE : 0);
    memcpy(ifr.ifr_name, name.c_str(), name.size());
    if (ioctl(fd_, TUNSETIFF, &ifr) < 0) {
      FailOpen(env, "TUNSETIFF");
      return;
    }
    name_ = ifr.ifr_name;
    int size = kVnet;
    if (ioctl(fd_, TUNSETVNETHDRSZ, &size) < 0) {
      FailOpen(env, "TUNSETVNETHDRSZ");
      return;
    }
    if (flags & 1) Negotiate();
  }

  ~Tun() override { Shut(); }

 private:
  void Throw(Napi::Env env, const char* what, int e) {
    Napi::Error error = Napi::Error::New(env, std::string(what) + ": " + strerror(e));
    error.Set("code", Napi::String::New(env, uv_err_name(-e)));
    error.ThrowAsJavaScriptException();
  }

  void FailOpen(Napi::Env env, const char* what) {
    int e = errno;
    close(fd_);
    fd_ = -1;
    Throw(env, what, e);
  }

  // From the most to the least: an older kernel refuses the whole set when it does not know one bit.
  void Negotiate() {
    const unsigned tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (ioctl(fd_, TUNSETOFFLOAD, tso | TUN_F_USO4 | TUN_F_USO6) == 0) offload_ = 7;
    else if (ioctl(fd_, TUNSETOFFLOAD, tso) == 0) offload_ = 3;
    else if (ioctl(fd_, TUNSETOFFLOAD, TUN_F_CSUM) == 0) offload_ = 1;
  }

  Napi::Value Name(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), name_); }
  Napi::Value Offload(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), offload_); }
  Napi::Value Counters(const Napi::CallbackInfo& info) {
    Napi::Float64Array out = Napi::Float64Array::New(info.Env(), kCounters);
    for (int i = 0; i < kCounters; i++) out[i] = counters_[i];
    return out;
  }
  Napi::Value Plain(const Napi::CallbackInfo& info) {
    offload_ = 0;
    refused_ = 0;
    return info.Env().Undefined();
  }

  // ---- events

  Napi::Value Start(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (fd_ < 0 || poll_) return env.Undefined();
    int rc = poll_.Open(this, env, fd_, info[0].As<Napi::Function>(), "kubebus.tun");
    if (rc != 0) {
      Throw(env, "uv_poll_init", -rc);
      return env.Undefined();
    }
    Ref();
    return Resume(info);
  }

  Napi::Value Resume(const Napi::CallbackInfo& info) {
    poll_.Watch(UV_READABLE);
    return info.Env().Undefined();
  }

  Napi::Value Pause(const Napi::CallbackInfo& info) {
    poll_.Watch(0);
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    bool started = bool(poll_);
    Shut();
    if (started) Unref();
    return info.Env().Undefined();
  }

  void OnPoll(int status, int) { poll_.Call(status < 0 ? -status : 0); }

  void Shut() {
    poll_.Close();
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  // ---- kernel -> frames

  Napi::Value ReadBatch(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto buf = info[0].As<Napi::Uint8Array>();
    uint8_t* base = buf.Data();
    size_t off = info[1].As<Napi::Number>().Uint32Value();
    size_t limit = info[2].As<Napi::Number>().Uint32Value();
    uint32_t left = info[3].As<Napi::Number>().Uint32Value();
    if (limit > buf.ByteLength()) limit = buf.ByteLength();
    while (fd_ >= 0 && left > 0 && off + kHeader + kMaxPacket <= limit) {
      Vnet vnet;
      struct iovec iov[2] = {{&vnet, kVnet}, {base + off + kHeader, kMaxPacket}};
      ssize_t n = readv(fd_, iov, 2);
      if (n < ssize_t(kVnet)) {
        // EBADFD: the device was deleted under us. EIO, EAGAIN: nothing (the device is down or empty).
        if (n < 0 && (errno == EBADFD || errno == ENODEV)) {
          int e = errno;
          Pause(info);
          poll_.Call(e);
        }
        break;
      }
      size_t length = size_t(n) - kVnet;
      uint8_t flags = 0;
      uint16_t gso = 0;
      if (vnet.flags & kVnetNeedsCsum) flags |= kPartial;
      uint8_t type = vnet.gso_type & ~kVnetEcn;
      if (type == kVnetTcp4 || type == kVnetTcp6) flags |= kGsoTcp;
      else if (type == kVnetUdp) flags |= kGsoUdp;
      if (flags & (kGsoTcp | kGsoUdp)) {
        gso = vnet.gso_size;
        if (vnet.gso_type & kVnetEcn) flags |= kGsoEcn;
      }
      PutFrame(base + off, flags, gso, uint32_t(length));
      off += kHeader + length;
      left--;
      counters_[kRead]++;
    }
    return Napi::Number::New(env, double(off));
  }

  // ---- frames -> kernel

  Napi::Value WriteBatch(const Napi::CallbackInfo& info) {
    auto buf = info[0].As<Napi::Uint8Array>();
    uint8_t* base = buf.Data();
    size_t off = info[1].As<Napi::Number>().Uint32Value();
    size_t end = info[2].As<Napi::Number>().Uint32Value();
    if (end > buf.ByteLength()) end = buf.ByteLength();
    double written = 0;
    while (fd_ >= 0 && off + kHeader <= end) {
      size_t length = Get32(base + off + 4);
      if (length > end - off - kHeader || length > kMaxPacket) {
        counters_[kInvalid]++;
        break;
      }
      uint8_t* frame = base + off;
      off += kHeader + length;
      if (frame[0] != 0) {
        counters_[kInvalid]++;
        continue;
      }
      if ((offload_ & 4) && frame[1] == kPartial && off < end) {
        size_t next = Coalesce(frame, length, base, off, end, &written);
        if (next != 0) {
          off = next;
          continue;
        }
      }
      WriteOne(frame, length, &written);
    }
    return Napi::Number::New(info.Env(), refused_ >= kRefusals ? -1 : written);
  }

  void WriteOne(uint8_t* frame, size_t length, double* written) {
    uint8_t* packet = frame + kHeader;
    Vnet vnet;
    memset(&vnet, 0, sizeof vnet);
    uint8_t flags = frame[1] & (kGsoTcp | kGsoUdp | kGsoEcn | kPartial);
    if (flags != 0) {
      Layers l = Parse(packet, length);
      uint16_t gso = Get16(frame + 2);
      bool tcp = flags & kGsoTcp, udp = flags & kGsoUdp;
      bool sane = l.ok && (flags & kPartial) && !(tcp && udp) && (!tcp || l.protocol == 6) && (!udp || l.protocol == 17) &&
                  (!(tcp || udp) || gso != 0);
      if (!sane) {
        counters_[kInvalid]++;
        return;
      }
      vnet.flags = kVnetNeedsCsum;
      vnet.csum_start = l.l4;
      vnet.csum_offset = l.checksum;
      vnet.hdr_len = l.headers;
      if (udp && !(offload_ & 4) && length - l.headers > gso) return Split(packet, length, l, gso, written);
      if ((tcp || udp) && length - l.headers > gso) {
        vnet.gso_size = gso;
        vnet.gso_type = tcp ? (l.v6 ? kVnetTcp6 : kVnetTcp4) : kVnetUdp;
        if (tcp && (flags & kGsoEcn)) vnet.gso_type |= kVnetEcn;
      }
    }
    struct iovec iov[2] = {{&vnet, kVnet}, {packet, length}};
    Put(iov, 2, 1, vnet.gso_type != 0, written);
  }

  void Put(struct iovec* iov, int count, int packets, bool super, double* written) {
    ssize_t n = writev(fd_, iov, count);
    if (super && refused_ != kAccepted) refused_ = n >= 0 ? kAccepted : errno == EINVAL ? refused_ + 1 : refused_;
    if (n >= 0) {
      *written += packets;
      counters_[kWritten] += packets;
    } else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) {
      counters_[kFull] += packets;
    } else {
      counters_[kRejected] += packets;
    }
  }

  // A kernel that knows TSO but not USO (before 6.2) gets the datagrams of a UDP super-packet one by one.
  void Split(const uint8_t* packet, size_t length, const Layers& l, uint16_t gso, double* written) {
    memcpy(merged_, packet, l.headers);
    Vnet vnet;
    memset(&vnet, 0, sizeof vnet);
    vnet.flags = kVnetNeedsCsum;
    vnet.csum_start = l.l4;
    vnet.csum_offset = l.checksum;
    vnet.hdr_len = l.headers;
    uint16_t id = Get16(packet + 4);
    if (length - l.headers > size_t(gso) * kMaxSegments) {
      counters_[kInvalid]++;
      return;
    }
    counters_[kSplit]++;
    for (size_t at = l.headers; at < length; at += gso, id++) {
      size_t chunk = length - at < gso ? length - at : gso;
      PutLengths(l, l.headers + chunk, id);
      struct iovec iov[3] = {{&vnet, kVnet}, {merged_, l.headers}, {const_cast<uint8_t*>(packet) + at, chunk}};
      Put(iov, 3, 1, false, written);
    }
  }

  // Lengths and checksums of the UDP packet headers in merged_, for `whole` bytes: that of IPv4 is complete, that of UDP
  // the sum of the pseudo-header.
  void PutLengths(const Layers& l, size_t whole, uint16_t id) {
    if (l.v6) {
      Put16(merged_ + 4, uint16_t(whole - 40));
    } else {
      Put16(merged_ + 2, uint16_t(whole));
      Put16(merged_ + 4, id);
      merged_[10] = merged_[11] = 0;
      uint16_t sum = ~Fold(Sum(merged_, l.l4));
      memcpy(merged_ + 10, &sum, 2);
    }
    Put16(merged_ + l.l4 + 4, uint16_t(whole - l.l4));
    uint16_t pseudo = Fold(Pseudo(merged_, l, uint32_t(whole - l.l4)));
    memcpy(merged_ + l.l4 + l.checksum, &pseudo, 2);
  }

  // Datagrams of one flow and one size that follow each other leave as one UDP super-packet (the last may be shorter):
  // one trip through the kernel's stack instead of many. Returns the offset after the last one merged; 0: nothing merged.
  size_t Coalesce(uint8_t* frame, size_t length, uint8_t* base, size_t off, size_t end, double* written) {
    uint8_t* packet = frame + kHeader;
    Layers l = Parse(packet, length);
    if (!l.ok || l.protocol != 17) return 0;
    size_t payload = length - l.headers;
    if (payload == 0 || payload > 16384 || Get16(packet + l.l4 + 4) != length - l.l4) return 0;
    struct iovec iov[2 + kMaxMerge];
    int count = 1;
    size_t total = payload;
    size_t next = off;
    while (count < kMaxMerge && next + kHeader <= end) {
      uint8_t* f = base + next;
      size_t n = Get32(f + 4);
      if (n > length || n <= l.headers || n > end - next - kHeader) break;
      if (f[0] != 0 || f[1] != kPartial || !SameFlow(packet, f + kHeader, l, n)) break;
      if (total + (n - l.headers) > 65000) break;
      iov[1 + count] = {f + kHeader + l.headers, n - l.headers};
      total += n - l.headers;
      count++;
      next += kHeader + n;
      if (n < length) break;
    }
    if (count == 1) return 0;
    // The header of the first, made for the whole: lengths and the pseudo-header sum in the checksum field.
    memcpy(merged_, packet, l.headers);
    size_t whole = l.headers + total;
    PutLengths(l, whole, Get16(packet + 4));
    Vnet vnet;
    memset(&vnet, 0, sizeof vnet);
    vnet.flags = kVnetNeedsCsum;
    vnet.gso_type = kVnetUdp;
    vnet.gso_size = uint16_t(payload);
    vnet.hdr_len = l.headers;
    vnet.csum_start = l.l4;
    vnet.csum_offset = l.checksum;
    iov[0] = {&vnet, kVnet};
    // One write needs header and payloads apart: the first payload goes with the copied header.
    memcpy(merged_ + l.headers, packet + l.headers, payload);
    iov[1] = {merged_, l.headers + payload};
    Put(iov, 1 + count, count, true, written);
    counters_[kCoalesced] += count;
    return next;
  }

  // Same addresses, ports, traffic class and hop limit; IPv4 without options whose DF is set or whose id may change.
  static bool SameFlow(const uint8_t* a, const uint8_t* b, const Layers& l, size_t n) {
    if (l.v6) {
      if (Get16(b + 4) + 40u != n) return false;
      return memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 34) == 0 && memcmp(a + 40, b + 40, 4) == 0 &&
             Get16(b + 44) + 40u == n;
    }
    return l.l4 == 20 && b[0] == a[0] && b[1] == a[1] && Get16(b + 2) == n && memcmp(a + 6, b + 6, 4) == 0 &&
           memcmp(a + 12, b + 12, 12) == 0 && Get16(b + 24) + 20u == n;
  }

  static constexpr size_t kMaxSegments = 128;  // as MAX_UDP_SEGMENTS of lib/l3/offload.ts
  static constexpr int kMaxMerge = 64;  // UDP_MAX_SEGMENTS of older kernels
  int fd_ = -1;
  uint32_t offload_ = 0;
  static constexpr int kAccepted = -1;
  int refused_ = 0;  // super-packets refused; kAccepted once one was taken
  std::string name_;
  friend class Poll<Tun>;
  Poll<Tun> poll_;
  double counters_[kCounters] = {0};
  uint8_t merged_[128 + 16384];
};

Napi::Value SetSocketOption(const Napi::CallbackInfo& info) {
  int fd = info[0].As<Napi::Number>().Int32Value();
  int value = info[3].As<Napi::Number>().Int32Value();
  int rc = setsockopt(fd, info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Number>().Int32Value(), &value, sizeof value);
  return Napi::Number::New(info.Env(), rc < 0 ? errno : 0);
}

// The lowest priority of the real-time class: it is enough to run before everything that is in none.
Napi::Value SetRealtime(const Napi::CallbackInfo& info) {
  bool on = info[0].ToBoolean();
  struct sched_param param;
  memset(&param, 0, sizeof param);
  param.sched_priority = on ? sched_get_priority_min(SCHED_RR) : 0;
  // 0: the calling thread alone. The threads that JavaScript's garbage is collected in stay as they are.
  int rc = sched_setscheduler(0, on ? SCHED_RR | SCHED_RESET_ON_FORK : SCHED_OTHER, &param);
  return Napi::Number::New(info.Env(), rc < 0 ? errno : 0);
}

// A right that the node binary has by `setcap` does not pass to programs that it starts: only an ambient one does
// (capabilities(7)), and an ambient one has to be inheritable. Returns whether something was changed.
Napi::Value NetAdminForChildren(const Napi::CallbackInfo& info) {
  bool on = info[0].ToBoolean();
  if (on && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_ADMIN, 0, 0) != 0) return Napi::Boolean::New(info.Env(), false);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  constexpr uint32_t bit = 1u << CAP_NET_ADMIN;
  bool changed = syscall(SYS_capget, &header, data) == 0 && (data[0].permitted & bit) != 0;
  if (changed) {
    data[0].inheritable = on ? data[0].inheritable | bit : data[0].inheritable & ~bit;
    // Taking it out of the inheritable set takes it out of the ambient one.
    changed = syscall(SYS_capset, &header, data) == 0 &&
              (!on || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) == 0);
  }
  return Napi::Boolean::New(info.Env(), changed);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("netAdminForChildren", Napi::Function::New(env, NetAdminForChildren));
  exports.Set("Tun", Tun::Define(env));
  DefineStreams(env, exports);
  exports.Set("setRealtime", Napi::Function::New(env, SetRealtime));
  exports.Set("setSocketOption", Napi::Function::New(env, SetSocketOption));
  return exports;
}

NODE_API_MODULE(kubebus, Init)

}  // namespace kubebus
#else
static Napi::Object Init(Napi::Env, Napi::Object exports) { return exports; }
NODE_API_MODULE(kubebus, Init)
#endif
