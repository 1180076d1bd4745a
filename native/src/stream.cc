// A connected TCP socket, plain or with TLS 1.3, read into the caller's buffers and written at once. TLS is the OpenSSL that
// is inside Node. No policy: whose certificate is good for what is decided in TypeScript.
//
//   new SecureContext(cert, key, ca, ciphers, alpn, rekey)   PEM texts; alpn: what a server offers, as in RFC 7301 §3.1; throws {code}
//   new Stream(fd, context | null, server, servername)       works on a duplicate of fd: the caller closes its own
//   .start(callback)       callback(event), see enum Event; TLS: the handshake comes first
//   .read(buf, start) -> bytes, + kMore when the next read has some at once; -1: the peer's end; -2: error
//   .write(buf, start, end) -> bytes that wait for the system to take them; -2: error
//   .pending .error        error: [code, message]
//   .pause() .resume() .end() .close()
//   .peer() -> {certificate, verify, reason, alpn}           after the handshake; verify: X509_V_*, 0 is good
#include "stream.h"

#ifdef __linux__
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <memory>
#include <string>
#include <vector>

#include "poll.h"

#if defined(__has_include)
#if __has_include(<openssl/ssl.h>)
#define KUBEBUS_TLS 1
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#endif
#endif

namespace kubebus {

enum Event { kReadable = 1, kDrained = 2, kSecured = 3, kFailed = 4 };

constexpr int kMore = 1 << 30;
constexpr int kEnd = -1;
constexpr int kError = -2;
// Ciphertext taken from the system at a time, for all streams of a thread: it is decrypted before the next stream is read.
constexpr size_t kIn = 256 * 1024;
constexpr size_t kRecord = 16 * 1024;  // RFC 8446 §5.1
// Bytes that a stream keeps room for while nothing waits.
constexpr size_t kKeep = 64 * 1024;
// Records of TLS itself (KeyUpdate, tickets) that a peer may send beyond one for each record with data: a new key costs us far more
// than it costs the sender.
constexpr int kOdd = 32;
// Bytes of our answers to KeyUpdates that a peer may leave unread; one is 27.
constexpr size_t kAnswers = 4 * 1024;

class Stream;

#ifdef KUBEBUS_TLS
// OpenSSL keeps its errors in a queue of the thread, which Node's own TLS reads too: nothing is taken from it and nothing left.
struct ErrorQueue {
  ErrorQueue() { ERR_clear_error(); }
  ~ErrorQueue() {
    if (ERR_peek_error() != 0) ERR_clear_error();
  }
};

struct Incoming {
  std::unique_ptr<uint8_t[]> bytes{new uint8_t[kIn]};
  size_t begin = 0;
  size_t end = 0;
  Stream* owner = nullptr;
};
thread_local std::unique_ptr<Incoming> incoming;
thread_local std::vector<uint8_t> outgoing;

class SecureContext : public Napi::ObjectWrap<SecureContext> {
 public:
  static Napi::Function Define(Napi::Env env) { return DefineClass(env, "SecureContext", {}); }

  explicit SecureContext(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SecureContext>(info) {
    ErrorQueue errors;
    ctx_ = SSL_CTX_new(TLS_method());
    alpn_ = info[4].As<Napi::String>();
    rekey = info[5].As<Napi::Number>().DoubleValue();
    std::string ciphers = info[3].As<Napi::String>();
    bool ok = ctx_ != nullptr && SSL_CTX_set_min_proto_version(ctx_, TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_ciphersuites(ctx_, ciphers.c_str()) == 1 && Certificate(info[0].As<Napi::String>()) &&
              Key(info[1].As<Napi::String>()) && Authorities(info[2].As<Napi::String>());
    if (!ok) {
      unsigned long e = ERR_peek_last_error();
      const char* reason = ERR_reason_error_string(e);
      Napi::Error error = Napi::Error::New(info.Env(), reason == nullptr ? "not a certificate, key or CA in PEM" : reason);
      error.Set("code", Napi::String::New(info.Env(), "ERR_OSSL"));
      error.ThrowAsJavaScriptException();
      return;
    }
    // The handshake goes on with a certificate that is not good: who refuses it can then say why.
    SSL_CTX_set_verify(ctx_, SSL_VERIFY_PEER, [](int, X509_STORE_CTX*) { return 1; });
    // Nobody resumes: the certificate is shown each time.
    SSL_CTX_set_session_cache_mode(ctx_, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx_, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_num_tickets(ctx_, 0);
    SSL_CTX_set_mode(ctx_, SSL_MODE_RELEASE_BUFFERS);
    // A read ends after a record without data: so no more of them are taken than may come.
    SSL_CTX_clear_mode(ctx_, SSL_MODE_AUTO_RETRY);
    if (!alpn_.empty()) SSL_CTX_set_alpn_select_cb(ctx_, &SecureContext::Choose, this);
  }

  ~SecureContext() override { SSL_CTX_free(ctx_); }

  SSL_CTX* ctx_ = nullptr;
  double rekey = 0;

 private:
  // RFC 7301 §3.2: whoever offers protocols and none of ours is told so.
  static int Choose(SSL*, const unsigned char** out, unsigned char* length, const unsigned char* in, unsigned int size, void* self) {
    const std::string& ours = static_cast<SecureContext*>(self)->alpn_;
    unsigned char* chosen = nullptr;
    int rc = SSL_select_next_proto(&chosen, length, reinterpret_cast<const unsigned char*>(ours.data()),
                                   static_cast<unsigned int>(ours.size()), in, size);
    *out = chosen;
    return rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
  }

  static BIO* Text(const std::string& pem) { return BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())); }
  // Without it OpenSSL would ask the terminal for a passphrase.
  static int NoPassphrase(char*, int, int, void*) { return 0; }

  // A context without certificate is one that only calls.
  bool Certificate(const std::string& pem) {
    if (pem.empty()) return true;
    BIO* bio = Text(pem);
    X509* own = PEM_read_bio_X509(bio, nullptr, NoPassphrase, nullptr);
    bool ok = own != nullptr && SSL_CTX_use_certificate(ctx_, own) == 1;
    X509_free(own);
    while (ok) {
      X509* issuer = PEM_read_bio_X509(bio, nullptr, NoPassphrase, nullptr);
      if (issuer == nullptr) break;
      ok = SSL_CTX_add0_chain_cert(ctx_, issuer) == 1;
      if (!ok) X509_free(issuer);
    }
    BIO_free(bio);
    return ok;
  }

  bool Key(const std::string& pem) {
    if (pem.empty()) return true;
    BIO* bio = Text(pem);
    EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, nullptr, NoPassphrase, nullptr);
    bool ok = key != nullptr && SSL_CTX_use_PrivateKey(ctx_, key) == 1;
    EVP_PKEY_free(key);
    BIO_free(bio);
    return ok;
  }

  bool Authorities(const std::string& pem) {
    BIO* bio = Text(pem);
    X509_STORE* store = SSL_CTX_get_cert_store(ctx_);
    int count = 0;
    bool ok = true;
    while (ok) {
      X509* ca = PEM_read_bio_X509(bio, nullptr, NoPassphrase, nullptr);
      if (ca == nullptr) break;
      // A server names them to its callers (RFC 8446 §4.2.4).
      ok = X509_STORE_add_cert(store, ca) == 1 && SSL_CTX_add_client_CA(ctx_, ca) == 1;
      X509_free(ca);
      count++;
    }
    BIO_free(bio);
    return ok && count > 0;
  }

  std::string alpn_;
};
#endif

class Stream : public Napi::ObjectWrap<Stream> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Stream",
                       {InstanceMethod<&Stream::Start>("start"), InstanceMethod<&Stream::Read>("read"),
                        InstanceMethod<&Stream::Write>("write"), InstanceMethod<&Stream::Pause>("pause"),
                        InstanceMethod<&Stream::Resume>("resume"), InstanceMethod<&Stream::End>("end"),
                        InstanceMethod<&Stream::Close>("close"), InstanceMethod<&Stream::Peer>("peer"),
                        InstanceAccessor<&Stream::Pending>("pending"), InstanceAccessor<&Stream::Error>("error")});
  }

  explicit Stream(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Stream>(info) {
    Napi::Env env = info.Env();
    fd_ = fcntl(info[0].As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) {
      Throw(env, errno, "dup");
      return;
    }
#ifdef KUBEBUS_TLS
    if (info[1].IsObject()) {
      SecureContext* context = SecureContext::Unwrap(info[1].As<Napi::Object>());
      if (context == nullptr) return;  // an exception is pending
      held_ = Napi::Persistent(info[1].As<Napi::Object>());
      rekey_ = context->rekey;
      bool server = info[2].ToBoolean();
      ErrorQueue errors;
      ssl_ = SSL_new(context->ctx_);
      BIO* bio = ssl_ == nullptr ? nullptr : BIO_new(Method());
      if (bio == nullptr) {
        Throw(env, ENOMEM, "SSL_new");
        return;
      }
      BIO_set_data(bio, this);
      BIO_set_init(bio, 1);
      SSL_set_bio(ssl_, bio, bio);
      SSL_set_msg_callback(ssl_, &Stream::OnMessage);
      SSL_set_msg_callback_arg(ssl_, this);
      if (server) {
        SSL_set_accept_state(ssl_);
      } else {
        SSL_set_connect_state(ssl_);
        std::string name = info[3].As<Napi::String>();
        if (!name.empty()) SSL_set_tlsext_host_name(ssl_, name.c_str());
      }
      secured_ = false;
    }
#endif
  }

  ~Stream() override { Shut(); }

 private:
  // ---- events

  Napi::Value Start(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (fd_ < 0 || poll_) return env.Undefined();
    int rc = poll_.Open(this, env, fd_, info[0].As<Napi::Function>(), "kubebus.stream");
    if (rc != 0) {
      Fail(-rc, "uv_poll_init");
      return env.Undefined();
    }
    Ref();
#ifdef KUBEBUS_TLS
    // The client speaks first (RFC 8446 §2).
    if (ssl_ != nullptr) Step();
#endif
    Watch();
    return env.Undefined();
  }

  void Watch() {
    if (!poll_) return;
    int events = (reading_ && !ended_ ? UV_READABLE : 0) | (Waiting() > 0 ? UV_WRITABLE : 0);
    if (events == watched_) return;
    watched_ = events;
    poll_.Watch(events);
  }

  Napi::Value Pause(const Napi::CallbackInfo& info) {
    reading_ = false;
    Watch();
    return info.Env().Undefined();
  }

  Napi::Value Resume(const Napi::CallbackInfo& info) {
    reading_ = true;
    Watch();
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    bool started = bool(poll_);
    Shut();
    if (started) Unref();
    return info.Env().Undefined();
  }

  void OnPoll(int status, int events) {
    // Kept until the end of this function, whatever is called.
    Napi::HandleScope scope(Env());
    [[maybe_unused]] Napi::Object alive = Value();
    if (status < 0) {
      // libuv says that there is an error, and watches no more. What came before it is read first, as Node's sockets do: the
      // reason of a peer that has left lies there. The read after it gets the error.
      watched_ = 0;
      if (!reading_ || ended_) SystemError();
      events = UV_READABLE;
    }
#ifdef KUBEBUS_TLS
    if (code_.empty() && !secured_) {
      if (events & UV_WRITABLE) Flush();
      if (code_.empty() && Handshake()) {
        poll_.Call(kSecured);
        // What came in with the last message of the handshake: the system will not announce it again.
        if (poll_ && reading_ && Buffered()) poll_.Call(kReadable);
      }
      if (!code_.empty()) Failed();
      Watch();
      return;
    }
#endif
    if (!code_.empty()) return Failed();
    if (events & UV_WRITABLE) {
      Flush();
      if (!code_.empty()) return Failed();
      if (Waiting() == 0) {
        if (ending_) HalfClose();
        poll_.Call(kDrained);
      }
    }
    if ((events & UV_READABLE) && poll_ && reading_) poll_.Call(kReadable);
    if (!code_.empty()) return Failed();
    Watch();
  }

  // libuv does not say which error.
  void SystemError() {
    int e = 0;
    socklen_t size = sizeof e;
    if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &e, &size) != 0 || e == 0 || e == EPIPE) e = ECONNRESET;
    Fail(e, "read");
  }

  void Failed() {
    if (!poll_) return;
    poll_.Watch(0);
    watched_ = 0;
    if (!said_) {
      said_ = true;
      poll_.Call(kFailed);
    }
  }

  void Shut() {
    poll_.Close();
#ifdef KUBEBUS_TLS
    if (incoming != nullptr && incoming->owner == this) {
      incoming->owner = nullptr;
      incoming->begin = incoming->end = 0;
    }
    SSL_free(ssl_);
    ssl_ = nullptr;
#endif
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  // ---- bytes out

  size_t Waiting() const { return pending_.size() - sent_; }
  Napi::Value Pending(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(Waiting())); }

  Napi::Value Write(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto buf = info[0].As<Napi::Uint8Array>();
    size_t start = info[1].As<Napi::Number>().Uint32Value();
    size_t end = info[2].As<Napi::Number>().Uint32Value();
    if (fd_ < 0 || ending_ || !code_.empty()) return Napi::Number::New(env, kError);
    if (end > buf.ByteLength()) end = buf.ByteLength();
    const uint8_t* bytes = buf.Data();
#ifdef KUBEBUS_TLS
    if (ssl_ != nullptr) {
      if (!secured_) return Napi::Number::New(env, kError);
      if (start < end) Encrypt(bytes + start, end - start);
    } else
#endif
    if (start < end)
      Send(bytes + start, end - start);
    Watch();
    return Napi::Number::New(env, code_.empty() ? double(Waiting()) : kError);
  }

  // What the system does not take at once is kept.
  void Send(const uint8_t* bytes, size_t length) {
    while (length > 0 && Waiting() == 0) {
      ssize_t n = send(fd_, bytes, length, MSG_NOSIGNAL);
      if (n < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN || errno == ENOBUFS) break;
        return Fail(errno, "write");
      }
      bytes += n;
      length -= size_t(n);
    }
    if (length == 0) return;
    if (sent_ > kKeep && sent_ > pending_.size() / 2) {
      pending_.erase(pending_.begin(), pending_.begin() + long(sent_));
      sent_ = 0;
    }
    pending_.insert(pending_.end(), bytes, bytes + length);
  }

  void Flush() {
    while (Waiting() > 0) {
      ssize_t n = send(fd_, pending_.data() + sent_, Waiting(), MSG_NOSIGNAL);
      if (n < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN || errno == ENOBUFS) return;
        return Fail(errno, "write");
      }
      sent_ += size_t(n);
    }
    sent_ = 0;
    pending_.clear();
    if (pending_.capacity() > kKeep) pending_.shrink_to_fit();
  }

  Napi::Value End(const Napi::CallbackInfo& info) {
    if (fd_ >= 0 && !ending_) {
      ending_ = true;
#ifdef KUBEBUS_TLS
      if (ssl_ != nullptr && secured_ && code_.empty()) {
        ErrorQueue errors;
        SSL_shutdown(ssl_);  // close_notify
        Sealed();
      }
#endif
      if (Waiting() == 0) HalfClose();
      Watch();
    }
    return info.Env().Undefined();
  }

  void HalfClose() {
    if (fd_ >= 0) shutdown(fd_, SHUT_WR);
  }

  // ---- bytes in

  Napi::Value Read(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto buf = info[0].As<Napi::Uint8Array>();
    size_t start = info[1].As<Napi::Number>().Uint32Value();
    size_t size = buf.ByteLength();
    if (fd_ < 0) return Napi::Number::New(env, 0);
    if (!code_.empty()) return Napi::Number::New(env, kError);
    if (start >= size) return Napi::Number::New(env, 0);
    uint8_t* to = buf.Data() + start;
    int result;
#ifdef KUBEBUS_TLS
    if (ssl_ != nullptr) result = secured_ ? Decrypt(to, size - start) : 0;
    else
#endif
      result = int(Receive(to, size - start));
    if (result == kError || result == kEnd || !code_.empty()) Watch();
    return Napi::Number::New(env, result);
  }

  ssize_t Receive(uint8_t* to, size_t length) {
    if (ended_) return kEnd;
    for (;;) {
      ssize_t n = recv(fd_, to, length, 0);
      if (n > 0) return n;
      if (n == 0) {
        ended_ = true;
        return kEnd;
      }
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return 0;
      Fail(errno, "read");
      return kError;
    }
  }

#ifdef KUBEBUS_TLS
  // ---- TLS

  // Takes ciphertext from the system, once. False: there is none, for whatever reason.
  bool Fetch(size_t most) {
    if (incoming == nullptr) incoming.reset(new Incoming);
    Incoming& in = *incoming;
    if (in.owner != nullptr && in.owner != this && in.end > in.begin) {
      in.owner->stash_.assign(in.bytes.get() + in.begin, in.bytes.get() + in.end);
      in.owner->unstashed_ = 0;
    }
    in.owner = this;
    in.begin = in.end = 0;
    ssize_t n = Receive(in.bytes.get(), most < kIn ? most : kIn);
    if (n <= 0) return false;
    in.end = size_t(n);
    return true;
  }

  bool Buffered() const {
    if (!stash_.empty() || (ssl_ != nullptr && SSL_pending(ssl_) > 0)) return true;
    return incoming != nullptr && incoming->owner == this && incoming->end > incoming->begin;
  }

  int Decrypt(uint8_t* to, size_t length) {
    size_t total = 0;
    // OpenSSL is asked only when it has something to do: each answer that there is nothing costs as much as a small record.
    if (!Buffered() && !Fetch(length < kRecord ? 2 * kRecord : length + kRecord / 16)) {
      if (!code_.empty()) return kError;
      return ended_ ? kEnd : 0;
    }
    while (total < length && (total == 0 || Buffered())) {
      ErrorQueue errors;
      size_t n = 0;
      if (SSL_read_ex(ssl_, to + total, length - total, &n) == 1) {
        total += n;
        if (odd_ > 0) odd_--;
        continue;
      }
      int why = SSL_get_error(ssl_, 0);
      if (why == SSL_ERROR_WANT_READ) {
        if (odd_ > kOdd) {
          Refuse("ERR_SSL_TOO_MANY_KEY_UPDATES", "the other side sends too many TLS messages without data");
          break;
        }
        // OpenSSL takes all there is before it wants more: what is left follows a record without data.
        if (Buffered()) continue;
        break;
      }
      if (why == SSL_ERROR_ZERO_RETURN) {
        ended_ = true;
        if (total == 0) return kEnd;
        break;
      }
      Broken();
      break;
    }
    if (!outgoing.empty()) Answer();
    if (total == 0) return code_.empty() ? 0 : kError;
    return int(total) | (Buffered() || ended_ ? kMore : 0);
  }

  void Encrypt(const uint8_t* bytes, size_t length) {
    ErrorQueue errors;
    records_ += double(length) / kRecord + 1;
    if (records_ >= rekey_) {
      // RFC 8446 §5.5: AES-GCM is good for 2^24.5 records under one key.
      records_ = 0;
      SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED);
    }
    size_t n = 0;
    if (SSL_write_ex(ssl_, bytes, length, &n) != 1) Broken();
    Sealed();
  }

  // As far as the handshake gets with what is here. True: it is over.
  bool Step() {
    ErrorQueue errors;
    int rc = SSL_do_handshake(ssl_);
    if (rc != 1 && SSL_get_error(ssl_, rc) != SSL_ERROR_WANT_READ) Broken();
    Sealed();
    return rc == 1;
  }

  // True when the handshake is over.
  bool Handshake() {
    // The last byte of a handshake can be followed by data at once: no more is taken than a few records.
    while (code_.empty() && Fetch(4 * kRecord)) {
      if (!Step()) continue;
      secured_ = true;
      return true;
    }
    if (code_.empty() && ended_) Fail(ECONNRESET, "read");
    return false;
  }

  // Answers to KeyUpdates, and alerts. Nobody above counts them, so a peer that reads none of them is cut off here.
  void Answer() {
    if (Waiting() == 0) answers_ = 0;
    answers_ += outgoing.size();
    Sealed();
    if (Waiting() > 0 && answers_ > kAnswers) {
      Refuse("ERR_SSL_TOO_MANY_KEY_UPDATES", "the other side asks for new keys and does not read them");
    }
  }

  // What OpenSSL wrote goes to the socket.
  void Sealed() {
    if (outgoing.empty()) return;
    if (fd_ >= 0) Send(outgoing.data(), outgoing.size());
    outgoing.clear();
    if (outgoing.capacity() > 2 * kIn) outgoing.shrink_to_fit();
  }

  // The last error of OpenSSL becomes this stream's, with the code that Node gives it.
  void Broken() {
    unsigned long e = ERR_peek_error();
    const char* reason = ERR_reason_error_string(e);
    if (code_.empty()) {
      code_ = "ERR_SSL_";
      for (const char* c = reason == nullptr ? "protocol error" : reason; *c; c++) {
        code_ += *c == ' ' ? '_' : char(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
      }
      message_ = reason == nullptr ? "protocol error" : reason;
    }
  }

  static void OnMessage(int sent, int, int type, const void*, size_t, SSL*, void* self) {
    if (sent == 0 && type == SSL3_RT_HANDSHAKE && static_cast<Stream*>(self)->secured_) static_cast<Stream*>(self)->odd_++;
  }

  static BIO_METHOD* Method() {
    static BIO_METHOD* method = [] {
      BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "kubebus");
      BIO_meth_set_read(m, &Stream::BioRead);
      BIO_meth_set_write(m, &Stream::BioWrite);
      BIO_meth_set_ctrl(m, &Stream::BioControl);
      return m;
    }();
    return method;
  }

  static int BioRead(BIO* bio, char* to, int length) {
    auto* self = static_cast<Stream*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (!self->stash_.empty()) {
      size_t n = self->stash_.size() - self->unstashed_;
      if (n > size_t(length)) n = size_t(length);
      memcpy(to, self->stash_.data() + self->unstashed_, n);
      self->unstashed_ += n;
      if (self->unstashed_ == self->stash_.size()) std::vector<uint8_t>().swap(self->stash_);
      return int(n);
    }
    Incoming* in = incoming.get();
    if (in == nullptr || in->owner != self || in->begin == in->end) {
      BIO_set_retry_read(bio);
      return -1;
    }
    size_t n = in->end - in->begin;
    if (n > size_t(length)) n = size_t(length);
    memcpy(to, in->bytes.get() + in->begin, n);
    in->begin += n;
    return int(n);
  }

  static int BioWrite(BIO*, const char* from, int length) {
    outgoing.insert(outgoing.end(), from, from + length);
    return length;
  }

  static long BioControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  Napi::Value Peer(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Napi::Object out = Napi::Object::New(env);
    out.Set("certificate", env.Null());
    if (ssl_ == nullptr) return out;
    ErrorQueue errors;
    X509* certificate = SSL_get1_peer_certificate(ssl_);
    if (certificate != nullptr) {
      int size = i2d_X509(certificate, nullptr);
      if (size > 0) {
        auto bytes = Napi::Buffer<uint8_t>::New(env, size_t(size));
        unsigned char* at = bytes.Data();
        i2d_X509(certificate, &at);
        out.Set("certificate", bytes);
      }
      X509_free(certificate);
    }
    long verify = SSL_get_verify_result(ssl_);
    out.Set("verify", Napi::Number::New(env, double(verify)));
    out.Set("reason", Napi::String::New(env, X509_verify_cert_error_string(verify)));
    const unsigned char* alpn = nullptr;
    unsigned int length = 0;
    SSL_get0_alpn_selected(ssl_, &alpn, &length);
    out.Set("alpn", Napi::String::New(env, reinterpret_cast<const char*>(alpn), length));
    return out;
  }
#else
  Napi::Value Peer(const Napi::CallbackInfo& info) { return info.Env().Null(); }
#endif

  // ---- errors

  void Throw(Napi::Env env, int e, const char* what) {
    Fail(e, what);
    Napi::Error error = Napi::Error::New(env, message_);
    error.Set("code", Napi::String::New(env, code_));
    error.ThrowAsJavaScriptException();
  }

  void Refuse(const char* code, const char* message) {
    if (!code_.empty()) return;
    code_ = code;
    message_ = message;
  }

  // The first one counts.
  void Fail(int e, const char* what) {
    if (!code_.empty()) return;
    // A peer that has left in the middle of the handshake, whether its end or its reset came first.
    if (e == EPIPE && !secured_) e = ECONNRESET;
    code_ = uv_err_name(-e);
    message_ = std::string(what) + " " + code_;
  }

  Napi::Value Error(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (code_.empty()) return env.Null();
    Napi::Array out = Napi::Array::New(env, 2);
    out[uint32_t(0)] = Napi::String::New(env, code_);
    out[uint32_t(1)] = Napi::String::New(env, message_);
    return out;
  }

  int fd_ = -1;
  bool reading_ = true;
  bool ended_ = false;   // the peer's end was read
  bool ending_ = false;  // ours was asked for
  bool said_ = false;
  bool secured_ = true;
  int watched_ = 0;
  std::vector<uint8_t> pending_;
  size_t sent_ = 0;
  std::string code_;
  std::string message_;
  friend class Poll<Stream>;
  Poll<Stream> poll_;
#ifdef KUBEBUS_TLS
  SSL* ssl_ = nullptr;
  Napi::ObjectReference held_;
  // Ciphertext that was taken from the system and had to make room for another stream's, and how much of it is read.
  std::vector<uint8_t> stash_;
  size_t unstashed_ = 0;
  int odd_ = 0;
  size_t answers_ = 0;
  double records_ = 0;
  double rekey_ = 0;
#endif
};

#ifdef KUBEBUS_TLS
// Node's OpenSSL, and one of the major version whose headers this was compiled with. Elsewhere (a Node with BoringSSL, say)
// TLS goes through Node's own sockets.
static bool OpenSslFits() {
  static const char* const needed[] = {"SSL_CTX_new", "SSL_CTX_set_ciphersuites", "SSL_CTX_set_num_tickets", "SSL_read_ex",
                                       "SSL_write_ex", "SSL_key_update", "SSL_get1_peer_certificate", "BIO_meth_new"};
  for (const char* name : needed) {
    if (dlsym(RTLD_DEFAULT, name) == nullptr) return false;
  }
  auto version = reinterpret_cast<unsigned long (*)()>(dlsym(RTLD_DEFAULT, "OpenSSL_version_num"));
  return version != nullptr && version() >> 28 == OPENSSL_VERSION_NUMBER >> 28;
}
#endif

void DefineStreams(Napi::Env env, Napi::Object exports) {
  exports.Set("Stream", Stream::Define(env));
#ifdef KUBEBUS_TLS
  if (OpenSslFits()) exports.Set("SecureContext", SecureContext::Define(env));
#endif
}

}  // namespace kubebus
#endif
