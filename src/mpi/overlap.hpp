// Computing on another thread while this one attends to messages: MPI makes progress only inside of
// its own functions, and only this thread may call them.
#pragma once

#include <functional>

namespace attn::mpi {

/// Runs compute(), which does not throw, and calls poll() every now and then until that has ended.
void compute_while_polling(const std::function<void()>& compute, const std::function<void()>& poll);

}  // namespace attn::mpi
