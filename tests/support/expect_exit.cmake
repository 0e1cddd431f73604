# cmake -DCOMMAND="a;b" -DCODE=1 -DMATCH=regex [-DNEVER=regex] -DSECONDS=60 -P expect_exit.cmake
# Runs COMMAND and fails unless it ends in time, with this exit code (NONZERO: any but 0), having
# written what MATCH names and nothing that NEVER names.
execute_process(COMMAND ${COMMAND} TIMEOUT ${SECONDS} RESULT_VARIABLE code
  OUTPUT_VARIABLE text ERROR_VARIABLE text)
message("${text}")
if(CODE STREQUAL "NONZERO")
  if(NOT code MATCHES "^[1-9][0-9]*$")
    message(FATAL_ERROR "ended with '${code}', needs an exit code above 0")
  endif()
elseif(NOT code STREQUAL CODE)
  message(FATAL_ERROR "ended with '${code}', needs ${CODE}")
endif()
if(NOT text MATCHES "${MATCH}")
  message(FATAL_ERROR "wrote nothing that matches '${MATCH}'")
endif()
if(NEVER AND text MATCHES "${NEVER}")
  message(FATAL_ERROR "wrote what it must not: '${NEVER}'")
endif()
