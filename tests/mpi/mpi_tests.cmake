# Tests of attn::mpi, each on 1 to 4 ranks of this machine. What mpirun would be told by options is in
# the environment, since the options of OpenMPI and of MPICH differ.
set(mpi_environment
  ${environment} OMP_NUM_THREADS=1
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none)

# A test `name`.RANKS for each number of ranks.
function(attn_register_mpi_test name target)
  cmake_parse_arguments(mpi "" "" "RANKS" ${ARGN})
  foreach(ranks ${mpi_RANKS})
    add_test(NAME ${name}.${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:${target}>)
    # More ranks than processors take turns, which takes time. Of random cases every third runs then.
    if(ranks GREATER 2)
      list(APPEND mpi_environment ATTN_TEST_EVERY=3)
    endif()
    set_tests_properties(${name}.${ranks} PROPERTIES
      ENVIRONMENT "${mpi_environment}" LABELS mpi PROCESSORS 2 TIMEOUT 300)
  endforeach()
endfunction()

add_library(attn_mpi_test_support STATIC mpi/cut_case.cpp)
target_link_libraries(attn_mpi_test_support PUBLIC attn_test_support attn::mpi)

foreach(name ring ring_backward ring_errors tree)
  add_executable(test_${name} mpi/test_${name}.cpp)
  target_link_libraries(test_${name} PRIVATE attn_mpi_test_support)
  attn_register_mpi_test(${name} test_${name} RANKS 1 2 3 4)
endforeach()

# How a call is divided, in one process.
attn_test(mpi/division INTERNALS attn_mpi_static MPI::MPI_CXX)

# A rank that is killed ends the others soon, with the code of an error. mpirun says what happened.
add_executable(ring_killed mpi/ring_killed.cpp)
target_link_libraries(ring_killed PRIVATE attn_settings attn::mpi)
add_test(NAME ring_killed
  COMMAND sh -c "timeout 30 ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} 3 $<TARGET_FILE:ring_killed>; code=$?; test $code -ne 0 && test $code -ne 124")
set_tests_properties(ring_killed PROPERTIES ENVIRONMENT "${mpi_environment}" LABELS mpi PROCESSORS 2)

set_tests_properties(division PROPERTIES LABELS mpi)

# It calls mpirun itself.
set(programs)
if(ATTN_BUILD_APPS)
  set(programs test_cli_ring)
  add_executable(test_cli_ring mpi/test_cli_ring.cpp)
  target_link_libraries(test_cli_ring PRIVATE attn_test_support attn::io attn::attn nlohmann_json::nlohmann_json)
  target_compile_definitions(test_cli_ring PRIVATE
    ATTN_DEMO_PATH="$<TARGET_FILE:attn_demo>" ATTN_BENCH_PATH="$<TARGET_FILE:attn_bench>"
    ATTN_MPIEXEC="${MPIEXEC_EXECUTABLE}" ATTN_MPIEXEC_NUMPROC="${MPIEXEC_NUMPROC_FLAG}")
  add_dependencies(test_cli_ring attn_demo attn_bench)
  attn_register_test(cli_ring test_cli_ring)
  set_tests_properties(cli_ring PROPERTIES
    ENVIRONMENT "${mpi_environment}" LABELS mpi PROCESSORS 2 TIMEOUT 300)
endif()
# All that `ctest -L mpi` needs.
add_custom_target(mpi_tests DEPENDS test_ring test_ring_backward test_ring_errors test_tree test_division ring_killed ${programs})
