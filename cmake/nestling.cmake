# Helpers: one static library a folder, one executable a test file.

find_package(OpenMP REQUIRED COMPONENTS CXX)

# -Wno-psabi: 64-byte vectors never cross a call. -Wno-restrict: false positive of GCC 12 on std::string.
add_library(nestling_flags INTERFACE)
target_include_directories(nestling_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(nestling_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Werror -Wno-psabi -Wno-restrict -march=x86-64-v3 -mtune=generic -ffp-contract=fast>)
if(NESTLING_SANITIZE)
  target_compile_options(nestling_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${NESTLING_SANITIZE} -fno-omit-frame-pointer>)
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

# nestling_test(kernels/linear_test USES kernels): tests/kernels/linear_test.cpp as one ctest entry.
# LABELS slow keeps it out of the fast suite; RANKS 4 runs it under mpirun.
function(nestling_test path)
  cmake_parse_arguments(ARG "" "RANKS" "USES;LIBS;LABELS" ${ARGN})
  string(REPLACE "/" "_" name ${path})
  add_executable(${name} ${path}.cpp)
  foreach(used ${ARG_USES})
    target_link_libraries(${name} PRIVATE nestling_${used})
  endforeach()
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gmock)
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE MPI::MPI_CXX)
    add_test(NAME ${path} COMMAND ${PROJECT_SOURCE_DIR}/launch/mpirun.sh ${ARG_RANKS} $<TARGET_FILE:${name}>)
  else()
    target_link_libraries(${name} PRIVATE nestling_test_main)
    add_test(NAME ${path} COMMAND ${name})
  endif()
  set_tests_properties(${path} PROPERTIES TIMEOUT 600 LABELS "${ARG_LABELS}"
    ENVIRONMENT "GTEST_OUTPUT=json:${CMAKE_BINARY_DIR}/test_results/;NESTLING_SOURCE_DIR=${PROJECT_SOURCE_DIR};NESTLING_BINARY_DIR=${CMAKE_BINARY_DIR}")
endfunction()
