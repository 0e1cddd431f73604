# Helpers: one static library a folder, one executable a test file.

find_package(OpenMP REQUIRED COMPONENTS CXX)

# -Wno-psabi: 64-byte vectors never cross a call. -Wno-restrict and -Wno-maybe-uninitialized: false
# positives of GCC 12 on std::string at -O3; the sanitizer presets look for the real ones.
add_library(nestling_flags INTERFACE)
target_include_directories(nestling_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(nestling_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Werror -Wno-psabi -Wno-restrict -Wno-maybe-uninitialized
    -march=x86-64-v3 -mtune=generic -ffp-contract=fast>)
# --no-compress: what nvcc has packed, launch/bundle.sh cannot pack any more; 16% of an object of the convolution.
target_compile_options(nestling_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-psabi,-Wno-restrict,-Werror --Werror=all-warnings
    --no-compress>)
if(NESTLING_SANITIZE)
  target_compile_options(nestling_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${NESTLING_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(nestling_flags INTERFACE -fsanitize=${NESTLING_SANITIZE})
endif()

# nestling_library(kernels SOURCES a.cpp USES data PRIVATE_LIBS x): library nestling_<name> of this folder.
function(nestling_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;LIBS" ${ARGN})
  add_library(nestling_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(nestling_${name} PUBLIC nestling_flags)
  foreach(used ${ARG_USES})
    target_link_libraries(nestling_${name} PUBLIC nestling_${used})
  endforeach()
  target_link_libraries(nestling_${name} PRIVATE ${ARG_LIBS})
endfunction()

# Test sources are compiled at -Og and with the headers of tests/support/precompiled.h compiled once:
# half of the time of a build otherwise. The libraries that they test are optimised as ever.
function(nestling_test_target name)
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-Og>)
  if(name STREQUAL "nestling_test_main")
    target_precompile_headers(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/precompiled.h)
  else()
    target_precompile_headers(${name} REUSE_FROM nestling_test_main)
  endif()
endfunction()

# nestling_test(kernels/linear_test USES kernels): tests/kernels/linear_test.cpp as one ctest entry.
# LABELS slow keeps it out of the fast suite. RANKS 4 runs it under mpirun with the main of
# tests/support/mpi_main.cpp; RANKS 1 2 4 makes an entry for each, kernels/comm_test.2ranks and so on.
# DEVICE: what it tests is the CUDA backend too. Label `device`, target `device_tests`, and a
# part of what launch/bundle.sh makes.
function(nestling_test path)
  cmake_parse_arguments(ARG "DEVICE" "" "USES;LIBS;LABELS;RANKS" ${ARGN})
  string(REPLACE "/" "_" name ${path})
  add_executable(${name} ${path}.cpp)
  if(ARG_DEVICE)
    list(APPEND ARG_LABELS device)
    add_dependencies(device_tests ${name})
  endif()
  foreach(used ${ARG_USES})
    target_link_libraries(${name} PRIVATE nestling_${used})
  endforeach()
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gmock)
  nestling_test_target(${name})
  if(NOT ARG_RANKS)
    target_link_libraries(${name} PRIVATE nestling_test_main)
    add_test(NAME ${path} COMMAND ${name})
    nestling_test_properties(${path} 1 ${path} "${ARG_LABELS}")
    if(ARG_DEVICE)
      nestling_bundled_test(${path} bin/${name})
    endif()
    return()
  endif()
  target_link_libraries(${name} PRIVATE nestling_mpi_test_main)
  list(LENGTH ARG_RANKS runs)
  foreach(ranks ${ARG_RANKS})
    set(entry ${path})
    if(runs GREATER 1)
      set(entry ${path}.${ranks}ranks)
    endif()
    add_test(NAME ${entry}
      COMMAND ${PROJECT_SOURCE_DIR}/launch/mpirun.sh ${ranks} $<TARGET_FILE:${name}>)
    nestling_test_properties(${entry} ${ranks} ${entry} "${ARG_LABELS}")
    if(ARG_DEVICE)
      nestling_bundled_test(${entry} launch/mpirun.sh ${ranks} bin/${name})
    endif()
  endforeach()
endfunction()

# A line of device_tests.txt in the build folder, which launch/bundle.sh reads: an entry, and its command in the
# folder that it makes.
function(nestling_bundled_test entry)
  string(REPLACE ";" " " command "${ARGN}")
  set_property(GLOBAL APPEND PROPERTY NESTLING_BUNDLED_TESTS "${entry} ${command}")
endfunction()

# What every test's environment holds, an exit test's too: under ThreadSanitizer, what it must not report.
set(NESTLING_TEST_ENVIRONMENT "OMP_WAIT_POLICY=passive")
set(NESTLING_TEST_TIMEOUT 600)
if(NESTLING_SANITIZE MATCHES "thread")
  list(APPEND NESTLING_TEST_ENVIRONMENT "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp halt_on_error=1 atexit_sleep_ms=0")
  if(NESTLING_CUDA STREQUAL "EMULATED")  # threads of the CPU are what the preset tsan is for
    list(APPEND NESTLING_TEST_ENVIRONMENT "OMP_NUM_THREADS=1")
    set(NESTLING_TEST_TIMEOUT 3600)
  endif()
endif()

# A test of PROCESSORS cores that writes its report to test_results/REPORT.json. Threads sleep at
# barriers: spinning, they take minutes where the cores are shared.
function(nestling_test_properties entry processors report labels)
  string(REPLACE "/" "_" report ${report})
  set_tests_properties(${entry} PROPERTIES TIMEOUT ${NESTLING_TEST_TIMEOUT} LABELS "${labels}" PROCESSORS ${processors}
    ENVIRONMENT "${NESTLING_TEST_ENVIRONMENT};GTEST_OUTPUT=json:${CMAKE_BINARY_DIR}/test_results/${report}.json;NESTLING_SOURCE_DIR=${PROJECT_SOURCE_DIR};NESTLING_BINARY_DIR=${CMAKE_BINARY_DIR}")
endfunction()

# nestling_exit_test(kernels/x.case CODE 1 MATCH regex NEVER regex SECONDS 60 COMMAND a b c): the
# command ends in time with that exit code (NONZERO: any but 0), having written what MATCH names.
function(nestling_exit_test entry)
  cmake_parse_arguments(ARG "" "CODE;MATCH;NEVER;SECONDS" "COMMAND" ${ARGN})
  add_test(NAME ${entry} COMMAND ${CMAKE_COMMAND} "-DCOMMAND=${ARG_COMMAND}" -DCODE=${ARG_CODE}
    "-DMATCH=${ARG_MATCH}" "-DNEVER=${ARG_NEVER}" -DSECONDS=${ARG_SECONDS}
    -P ${PROJECT_SOURCE_DIR}/tests/support/expect_exit.cmake)
  math(EXPR limit "${ARG_SECONDS} + 30")
  set_tests_properties(${entry} PROPERTIES TIMEOUT ${limit} ENVIRONMENT "${NESTLING_TEST_ENVIRONMENT}")
endfunction()
