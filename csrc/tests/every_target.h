// Runs a program's tests once per vector target that CPU kernels are compiled for.

#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/check.h"

namespace check {

// A kernel chooses its target once per process, so each target gets its own process. A processor
// that lacks a target runs its best one again.
inline int run_on_every_target(int argc, char** argv) {
  int failed = 0;
  for (const char* target : {"baseline", "avx2", "avx512"}) {
    std::printf("%s:\n", target);
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      setenv("SIGN_EXT_CPU_TARGET", target, 1);
      std::exit(run(argc, argv));
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) ++failed;
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace check
