#include "capi/status.hpp"

#include <attn/error.hpp>

#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string_view>

namespace attn::capi {
namespace {

/// An array and no string, since setting it must not fail.
thread_local char last_error[1024] = "";

attn_status fail(attn_status status, std::string_view message) noexcept {
  const std::size_t size = message.copy(last_error, sizeof last_error - 1);
  last_error[size] = '\0';
  return status;
}

struct CallbackFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

attn_status status_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument: return ATTN_INVALID_ARGUMENT;
    case ErrorCode::unsupported: return ATTN_UNSUPPORTED;
    case ErrorCode::exhausted: return ATTN_EXHAUSTED;
    case ErrorCode::io: break;  // This interface reads no files.
  }
  return ATTN_INTERNAL_ERROR;
}

}  // namespace

void end_call(const char* name, std::int32_t returned) {
  throw CallbackFailed(std::string(name) + " returned " + std::to_string(returned));
}

attn_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return fail(status_of(error.code()), error.what());
  } catch (const CallbackFailed& error) {
    return fail(ATTN_CALLBACK_FAILED, error.what());
  } catch (const std::bad_alloc&) {
    return fail(ATTN_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {  // a container that is larger than any memory
    return fail(ATTN_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(ATTN_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(ATTN_INTERNAL_ERROR, "an exception of unknown type");
  }
}

void reject(const std::string& message) { throw Error(ErrorCode::invalid_argument, message); }

void require_array(const void* elements, std::int64_t count, const char* name) {
  if (count < 0)
    reject("num_" + std::string(name) + " is " + std::to_string(count) + "; it needs 0 or more");
  if (elements == nullptr && count > 0)
    reject(std::string(name) + " is NULL, but num_" + name + " is " + std::to_string(count));
}

void reject_enumerator(const char* name, std::int64_t value) {
  reject(std::string(name) + " is " + std::to_string(value) + ", which is no value of its type");
}

}  // namespace attn::capi

const char* attn_last_error() { return attn::capi::last_error; }

const char* attn_status_name(attn_status status) {
  switch (status) {
    case ATTN_OK: return "ok";
    case ATTN_INVALID_ARGUMENT: return "invalid argument";
    case ATTN_UNSUPPORTED: return "unsupported";
    case ATTN_EXHAUSTED: return "exhausted";
    case ATTN_OUT_OF_MEMORY: return "out of memory";
    case ATTN_CALLBACK_FAILED: return "callback failed";
    case ATTN_INTERNAL_ERROR: return "internal error";
    default: return "unknown status";
  }
}
