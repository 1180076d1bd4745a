// A descriptor watched by the event loop of JavaScript, and the function that is told. It owns what both need and gives it
// back when it is closed, also by the end of the environment; the descriptor itself belongs to `Owner`.
//
// Owner: OnPoll(int status, int events) is called when something happens; Shut() closes the poll and all else.
#pragma once
#include <napi.h>
#include <uv.h>

#include <memory>

namespace kubebus {

template <typename Owner>
class Poll {
 public:
  explicit operator bool() const { return handle_ != nullptr; }

  // 0, or an error of libuv.
  int Open(Owner* owner, Napi::Env env, int fd, const Napi::Function& callback, const char* name) {
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env, &loop) != napi_ok) return UV_ENOTSUP;
    auto* handle = new uv_poll_t;
    int rc = uv_poll_init(loop, handle, fd);
    if (rc != 0) {
      delete handle;
      return rc;
    }
    handle_ = handle;
    handle_->data = owner;
    env_ = env;
    callback_ = Napi::Persistent(callback);
    context_ = std::make_shared<Napi::AsyncContext>(env, name);
    napi_add_env_cleanup_hook(env, &Poll::OnExit, owner);
    return 0;
  }

  void Watch(int events) {
    if (handle_ == nullptr) return;
    if (events == 0) uv_poll_stop(handle_);
    else uv_poll_start(handle_, events, &Poll::OnEvent);
  }

  // As libuv's own handles call into JavaScript.
  void Call(int value) {
    if (handle_ == nullptr) return;
    // The callback may close this, and with it what the call still needs.
    std::shared_ptr<Napi::AsyncContext> context = context_;
    napi_env env = env_;
    Napi::HandleScope scope(env_);
    napi_value global, arg, result;
    // The C interface: where a worker is being terminated no JavaScript can run, which napi.h turns into a fatal error.
    if (napi_get_global(env, &global) != napi_ok || napi_create_int32(env, value, &arg) != napi_ok) return;
    napi_make_callback(env, *context, global, callback_.Value(), 1, &arg, &result);
    bool pending = false;
    napi_value thrown;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending &&
        napi_get_and_clear_last_exception(env, &thrown) == napi_ok) {
      napi_fatal_exception(env, thrown);
    }
  }

  void Close() {
    if (handle_ == nullptr) return;
    if (!exiting_) napi_remove_env_cleanup_hook(env_, &Poll::OnExit, handle_->data);
    uv_poll_stop(handle_);
    uv_close(reinterpret_cast<uv_handle_t*>(handle_), [](uv_handle_t* h) { delete reinterpret_cast<uv_poll_t*>(h); });
    handle_ = nullptr;
    context_.reset();
    if (!exiting_) callback_.Reset();
  }

 private:
  static void OnEvent(uv_poll_t* handle, int status, int events) {
    static_cast<Owner*>(handle->data)->OnPoll(status, events);
  }

  static void OnExit(void* owner) {
    static_cast<Owner*>(owner)->poll_.exiting_ = true;
    static_cast<Owner*>(owner)->Shut();
  }

  bool exiting_ = false;
  Napi::Env env_{nullptr};
  uv_poll_t* handle_ = nullptr;
  Napi::FunctionReference callback_;
  std::shared_ptr<Napi::AsyncContext> context_;
};

}  // namespace kubebus
