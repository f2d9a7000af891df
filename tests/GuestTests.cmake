# SPDX-License-Identifier: GPL-2.0
#
# The tests that run in a guest. The debug kernel is some five times slower: there every path is
# taken once, on the release kernel every combination.

# --- the user interface ---------------------------------------------------------------------------
add_guest_test(NAME uapi COMMAND uapi_test KERNEL release CPUS 2 TIMEOUT 300 LABELS uapi)
add_guest_test(NAME uapi.debug COMMAND uapi_test --gtest_filter=-Secrets.* KERNEL debug CPUS 2 TIMEOUT 500
               LABELS uapi)

# --- the data path --------------------------------------------------------------------------------
add_guest_test(NAME datapath COMMAND datapath_test KERNEL release CPUS 2 TIMEOUT 400 LABELS datapath)
add_guest_test(NAME datapath.debug COMMAND datapath_test KERNEL debug CPUS 2 TIMEOUT 600
               LABELS datapath)

# --- all at once ----------------------------------------------------------------------------------
add_guest_test(NAME stress COMMAND stress_test KERNEL release CPUS 2 TIMEOUT 300 LABELS stress)
add_guest_test(NAME stress.debug COMMAND stress_test KERNEL debug CPUS 2 TIMEOUT 500 LABELS stress)

# --- the kernel's own selftests -------------------------------------------------------------------
foreach(case udpgso udpgso_bench cmsg_so_mark cmsg_time cmsg_ipv6 msg_zerocopy tls)
  add_test(NAME selftests.${case} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/selftests/compare ${case})
  set_tests_properties(selftests.${case} PROPERTIES LABELS "guest;release;vanilla;selftests" TIMEOUT 700)
endforeach()

# --- the tests themselves -------------------------------------------------------------------------
add_test(NAME mutations COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mutations/run)
set_tests_properties(mutations PROPERTIES LABELS "guest;mutations;long" TIMEOUT 14400)
