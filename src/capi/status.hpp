// Where the C interface begins and ends: exceptions become statuses, and pointers are checked.
#pragma once

#include <attn/attn.h>

#include <cstdint>
#include <string>

namespace attn::capi {

/// Ends a call because the user's function `name` returned something other than 0.
[[noreturn]] void end_call(const char* name, std::int32_t returned);

/// The status of the exception that is being handled. Its message becomes attn_last_error().
attn_status status_of_exception() noexcept;

[[noreturn]] void reject(const std::string& message);

/// Runs the body of a function of the C interface.
template <class Body>
attn_status guarded(const Body& body) noexcept {
  try {
    body();
    return ATTN_OK;
  } catch (...) {
    return status_of_exception();
  }
}

/// What a pointer that must not be NULL points to. Throws an Error that names the argument.
template <class T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) reject(std::string(name) + " is NULL");
  return *pointer;
}

/// Throws if there is no array for `count` elements.
void require_array(const void* elements, std::int64_t count, const char* name);

[[noreturn]] void reject_enumerator(const char* name, std::int64_t value);

/// Creates an object and hands it over. The handle is NULL if that fails.
template <class Handle, class Make>
attn_status create(Handle** handle, const char* name, const Make& make) noexcept {
  return guarded([&] {
    required(handle, name) = nullptr;
    *handle = make();
  });
}

template <class Handle>
attn_status destroy(Handle* handle) noexcept {
  delete handle;
  return ATTN_OK;
}

}  // namespace attn::capi
