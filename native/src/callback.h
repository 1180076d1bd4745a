// A call from the event loop into JavaScript, as libuv's own handles make them.
#pragma once
#include <napi.h>

#include <memory>

namespace kubebus {

inline void Invoke(Napi::Env where, const std::shared_ptr<Napi::AsyncContext>& held, const Napi::FunctionReference& callback,
                   int value) {
  // The callback may end whatever owns it, and with it what the call still needs.
  std::shared_ptr<Napi::AsyncContext> context = held;
  napi_env env = where;
  Napi::HandleScope scope(where);
  napi_value global, arg, result;
  // The C interface: where a worker is being terminated no JavaScript can run, which napi.h turns into a fatal error.
  if (napi_get_global(env, &global) != napi_ok || napi_create_int32(env, value, &arg) != napi_ok) return;
  napi_make_callback(env, *context, global, callback.Value(), 1, &arg, &result);
  bool pending = false;
  napi_value thrown;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending &&
      napi_get_and_clear_last_exception(env, &thrown) == napi_ok) {
    napi_fatal_exception(env, thrown);
  }
}

}  // namespace kubebus
