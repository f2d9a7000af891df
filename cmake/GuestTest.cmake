# SPDX-License-Identifier: GPL-2.0
#
# add_guest_test(NAME name COMMAND target-or-program [argument...]
#                [KERNEL kernel...]      release, debug, vanilla, stock-6.1, ...; default release
#                [NIC virtio|none]       default none
#                [CPUS n]                default 1
#                [MEMORY megabytes]
#                [TIMEOUT seconds]       of the guest; default 300. CTest waits 60 s longer
#                [ENV NAME=VALUE...]
#                [VM_ARGS argument...]   further options of ./run vm
#                [LABELS label...]       'long': only in ./run test --all
#                [WORKING_DIRECTORY dir] default the current binary folder
#
# Registers a test that runs COMMAND in a guest. With more than one KERNEL there is one test for each,
# called name.kernel. Each test carries its kernel as a label, and its guest's kernel log is
# build/log/test-NAME.log.
function(add_guest_test)
  cmake_parse_arguments(arg "" "NAME;NIC;CPUS;MEMORY;TIMEOUT;WORKING_DIRECTORY"
                        "COMMAND;KERNEL;ENV;VM_ARGS;LABELS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_NAME OR NOT arg_COMMAND)
    message(FATAL_ERROR "add_guest_test: NAME and COMMAND are needed; unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  foreach(default "KERNEL;release" "NIC;none" "CPUS;1" "TIMEOUT;300"
          "WORKING_DIRECTORY;${CMAKE_CURRENT_BINARY_DIR}")
    list(POP_FRONT default option)
    if(NOT arg_${option})
      set(arg_${option} ${default})
    endif()
  endforeach()
  list(POP_FRONT arg_COMMAND program)
  if(TARGET ${program})
    set(program $<TARGET_FILE:${program}>)
  endif()
  math(EXPR ctest_timeout "${arg_TIMEOUT} + 60")
  list(LENGTH arg_KERNEL kernels)
  foreach(kernel IN LISTS arg_KERNEL)
    set(name ${arg_NAME})
    if(kernels GREATER 1)
      set(name ${arg_NAME}.${kernel})
    endif()
    set(options --kernel ${kernel} --nic ${arg_NIC} --cpus ${arg_CPUS} --timeout ${arg_TIMEOUT}
                --log ${CMAKE_SOURCE_DIR}/build/log/test-${name}.log)
    if(arg_MEMORY)
      list(APPEND options --memory ${arg_MEMORY})
    endif()
    foreach(setting IN LISTS arg_ENV)
      list(APPEND options --env ${setting})
    endforeach()
    add_test(NAME ${name}
             COMMAND ${CMAKE_SOURCE_DIR}/run vm ${options} ${arg_VM_ARGS} -- ${program} ${arg_COMMAND}
             WORKING_DIRECTORY ${arg_WORKING_DIRECTORY})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ctest_timeout} PROCESSORS ${arg_CPUS}
                         LABELS "guest;${kernel};${arg_LABELS}")
  endforeach()
endfunction()
