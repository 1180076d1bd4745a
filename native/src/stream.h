#pragma once
#include <napi.h>

namespace kubebus {

// Adds Stream and, where this Node has an OpenSSL that fits, SecureContext.
void DefineStreams(Napi::Env env, Napi::Object exports);

}  // namespace kubebus
