# SPDX-License-Identifier: GPL-2.0
#
# The tests that run in a guest. The debug kernel is some five times slower: there every path is
# taken once, on the release kernel every combination.

# --- the user interface ---------------------------------------------------------------------------
add_guest_test(NAME uapi COMMAND uapi_test KERNEL release CPUS 2 TIMEOUT 1500 LABELS uapi)
# Long until it has been seen to pass with the mlx5 offload and the netlink family in the kernel.
add_guest_test(NAME uapi.debug COMMAND uapi_test --gtest_filter=-Secrets.* KERNEL debug CPUS 2 TIMEOUT 2400
               LABELS uapi long)
add_guest_test(NAME uapi.absent COMMAND uapi_test --gtest_filter=Absent.* KERNEL release LABELS uapi
               VM_ARGS --append initcall_blacklist=udp_crypto_init)
add_guest_test(NAME uapi.32-bit COMMAND ${CMAKE_CURRENT_BINARY_DIR}/compat32 KERNEL release LABELS uapi)
if(TARGET oracle_test)
  add_guest_test(NAME uapi.oracle COMMAND oracle_test VM_ARGS --icount LABELS uapi)
endif()
add_guest_test(NAME helper COMMAND helper_test KERNEL release LABELS uapi)
# Searches all of the guest's memory: little is quickly searched.
add_guest_test(NAME uapi.secrets COMMAND uapi_test --gtest_filter=Secrets.* KERNEL release MEMORY 320
               TIMEOUT 900 LABELS uapi long)

# --- the netlink family and quic-sadb-ctl ------------------------------------------------------------
if(TARGET netlink_test)
  add_guest_test(NAME netlink COMMAND netlink_test --gtest_filter=-Device.* KERNEL release TIMEOUT 600
                 LABELS netlink)
  add_guest_test(NAME netlink.manual NIC connectx COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/netlink/manual
                 ${CMAKE_SOURCE_DIR}/tools/quic-sadb-ctl/quic-sadb-ctl.8 $<TARGET_FILE:quic-sadb-ctl> LABELS netlink)
  # A kernel without the family says so by the tool's status.
  add_guest_test(NAME netlink.absent KERNEL stock LABELS netlink COMMAND bash -c
                 "quic-sadb-ctl sa show && exit 1 || (($? == 4))")
  add_guest_test(NAME netlink.debug COMMAND netlink_test --gtest_filter=-Device.* KERNEL debug TIMEOUT 1800
                 LABELS netlink long)
  add_guest_test(NAME netlink.many COMMAND netlink_test --gtest_filter=*HundredThousand KERNEL release
                 TIMEOUT 900 ENV QUIC_SADB_MANY=1 LABELS netlink long)
  add_guest_test(NAME observe COMMAND observe_test KERNEL release TIMEOUT 300 LABELS netlink)
endif()

# --- the data path --------------------------------------------------------------------------------
foreach(shard 0 1)
  add_guest_test(NAME datapath.${shard} COMMAND datapath_test KERNEL release TIMEOUT 1500 LABELS datapath
                 ENV GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=${shard})
endforeach()
# Each kind of wire, qdisc, tunnel and event once.
string(JOIN : datapath_debug
       Offload.* *LocalCopies*/Veth *IpOptions.OfThe*/Offload *Netem.Duplication/Offload *Netem.Loss*/Veth
       *Tc.Mirror*/Offload *Tc.RedirectAndMirror*/Offload *Tc.RedirectToAnother*/OffloadNo*
       *Nftables.Dup*/Offload *Nftables.Fwd*/Veth *Changes.Offload*/Offload *Changes.Device*/OffloadNo*
       *Changes.DeviceRemoved*/Veth *Queued*Netem*/Delete*Offload *Queued/*CloseTbfOverOffload
       *QdiscTbfCutsBatchesOverOffload *QdiscTbfCutsBatches6OverVeth *VxlanOverVeth *GreOverOffload
       *LwtunnelSeg6OverOffload *XfrmTransport* *XfrmInterfaceOverOffload *BridgeOverOffload *VlanOverOffload)
add_guest_test(NAME datapath.debug COMMAND datapath_test --gtest_filter=${datapath_debug} KERNEL debug
               TIMEOUT 1200 LABELS datapath long)
add_guest_test(NAME datapath.debug.all COMMAND datapath_test KERNEL debug CPUS 2 TIMEOUT 7200
               LABELS datapath long)
foreach(kernel release debug)
  add_test(NAME datapath.virtio.${kernel}
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/datapath/virtio ${kernel} $<TARGET_FILE:virtio_test>)
  set_tests_properties(datapath.virtio.${kernel} PROPERTIES LABELS "guest;${kernel};datapath;long" TIMEOUT 1500)
endforeach()

# --- the mlx5 driver over two ConnectX models ------------------------------------------------------
# add_nic_test(NAME PROGRAM [FAULTS] [IOMMU] [KERNEL k] [TIMEOUT s] [OPTIONS ,property=value...] [ENV name=value...]
#              [LABELS label...] [ARGS argument...])
# With FAULTS the test sets off faults of the device, and the driver may complain. With IOMMU the devices
# are behind one.
function(add_nic_test name program)
  cmake_parse_arguments(arg "FAULTS;IOMMU" "OPTIONS;KERNEL;TIMEOUT" "ENV;LABELS;ARGS" ${ARGN})
  if(NOT arg_KERNEL)
    set(arg_KERNEL release)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 900)
  endif()
  set(faults "")
  if(arg_FAULTS)
    set(faults --faults)
  endif()
  if(arg_IOMMU)
    list(APPEND faults --iommu)
  endif()
  math(EXPR ctest_timeout "${arg_TIMEOUT} + 60")
  add_test(NAME ${name}
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/nic/guest ${faults} ${arg_KERNEL}
                   ${CMAKE_SOURCE_DIR}/build/log/test-${name}.log "${arg_OPTIONS}" $<TARGET_FILE:${program}>
                   ${arg_ARGS})
  list(APPEND arg_ENV NIC_TEST_TIMEOUT=${arg_TIMEOUT})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ctest_timeout} PROCESSORS 2 ENVIRONMENT "${arg_ENV}"
                       LABELS "guest;${arg_KERNEL};nic;${arg_LABELS}")
endfunction()
# What every run takes: the three paths, the offload switched under traffic, batches cut in every way,
# the database full.
add_nic_test(nic.short nic_test
             ARGS --gtest_filter=*InlineFirst*/Aes128Gcm:*SameBytes*/ChaCha*:*Events*/Feature:*GsoPartial*)
add_nic_test(nic.full nic_test OPTIONS ,sadb-size=4 ARGS --gtest_filter=Database.* ENV QUIC_TEST_SADB=4)
# Next to every other offload of the driver, all of them on.
set(nic_offloads ,ipsec=on,tls=on,macsec=on)
add_nic_test(nic.offloads nic_test OPTIONS ${nic_offloads} ENV QUIC_TEST_OFFLOADS=1
             ARGS --gtest_filter=Offloads.*)
# All of them; on the debug kernel each event once.
set(nic_apart Database.*:Capabilities.*:*Recovery*:Faults.*:Offloads.*)
foreach(kernel release debug)
  set(suffix "")
  set(timeout 1200)
  set(paths *Ciphers*:Offload.*)
  if(kernel STREQUAL debug)
    set(suffix .debug)
    set(timeout 2400)
    set(paths *InlineFirst*/Aes256Gcm:*SameBytes*:Offload.*)
  endif()
  add_nic_test(nic.paths${suffix} nic_test KERNEL ${kernel} TIMEOUT ${timeout} LABELS long
               ARGS --gtest_filter=${paths})
  add_nic_test(nic.life${suffix} nic_test KERNEL ${kernel} TIMEOUT ${timeout} LABELS long
               ARGS --gtest_filter=-*Ciphers*:Offload.*:${nic_apart})
  add_nic_test(nic.recovery${suffix} nic_test FAULTS KERNEL ${kernel} TIMEOUT ${timeout} LABELS long
               ARGS --gtest_filter=*Recovery*:Faults.*)
  add_nic_test(nic.ciphers${suffix} nic_test KERNEL ${kernel} OPTIONS ,quic-ciphers=aes-128-gcm
               TIMEOUT ${timeout} LABELS long ARGS --gtest_filter=Capabilities.* ENV QUIC_TEST_ONE_CIPHER=1)
endforeach()
add_nic_test(nic.offloads.debug nic_test KERNEL debug TIMEOUT 2400 OPTIONS ${nic_offloads} ENV QUIC_TEST_OFFLOADS=1
             LABELS long ARGS --gtest_filter=Offloads.*)
add_nic_test(nic.offloads.refused nic_test FAULTS OPTIONS ${nic_offloads} ENV QUIC_TEST_OFFLOADS=1 QUIC_TEST_REFUSALS=1
             LABELS long ARGS --gtest_filter=Offloads.SoftwareDoes*)
# Headers inline: of Ethernet, of IP too, of UDP too.
foreach(mode 1 2 3)
  add_nic_test(nic.offloads.inline${mode} nic_test OPTIONS ${nic_offloads},min-inline=${mode}
               ENV QUIC_TEST_OFFLOADS=1 QUIC_TEST_MIN_INLINE=${mode} LABELS long ARGS --gtest_filter=Offloads.*)
endforeach()
# The paths and events once more, on queues that are set up for the others.
add_nic_test(nic.offloads.life nic_test OPTIONS ${nic_offloads} TIMEOUT 1200 LABELS long
             ARGS --gtest_filter=-${nic_apart})
add_nic_test(nic.offloads.datapath datapath_test OPTIONS ${nic_offloads} TIMEOUT 1500 LABELS long)
foreach(part inline lso)
  add_nic_test(nic.without.${part} nic_test OPTIONS ,quic-${part}=off LABELS long
               ARGS --gtest_filter=Capabilities.* ENV QUIC_TEST_WITHOUT=${part})
endforeach()
add_nic_test(nic.full.debug nic_test KERNEL debug OPTIONS ,sadb-size=4 TIMEOUT 2400 LABELS long
             ARGS --gtest_filter=Database.* ENV QUIC_TEST_SADB=4)
# quic-sadb-ctl with the devices, and 100,000 SAs in one of them.
if(TARGET netlink_test)
  add_nic_test(nic.tool netlink_test LABELS long ARGS --gtest_filter=Device.*)
  add_nic_test(nic.tool.debug netlink_test KERNEL debug LABELS long ARGS --gtest_filter=Device.*)
  add_nic_test(nic.tool.less netlink_test OPTIONS ,sadb-size=0,quic-ciphers=aes-128-gcm
               ENV QUIC_TEST_ONE_CIPHER=1 LABELS long ARGS --gtest_filter=Device.*)
  add_nic_test(nic.many netlink_test OPTIONS ,sadb-size=1048576 TIMEOUT 2400 ENV QUIC_TEST_MANY=100000
               LABELS long ARGS --gtest_filter=Device.HoldsManySas)
endif()
# A mapping is undone when the driver has its completion: a device that reads later is noticed.
add_nic_test(nic.iommu nic_test IOMMU LABELS long
             ARGS --gtest_filter=*InlineFirst*/Aes128Gcm:*Events*/Channels:*Events*/Rings:*Recovery*/DevlinkReload)
# Every way to send, and the packets of the RFC, as `uapi` does in software: the same bytes.
foreach(form index inline)
  add_nic_test(nic.uapi.${form} uapi_test TIMEOUT 1500 LABELS long ENV QUIC_TEST_FORM=${form}
               OPTIONS $<$<STREQUAL:${form},inline>:,sadb-size=0>
               ARGS --gtest_filter=*SendMatrix*:*KernelVectors*:*ThirtyTwoInFlight*)
endforeach()
# The tests of the data path, with keys in the device's database and with keys in each descriptor.
add_nic_test(nic.datapath.index datapath_test TIMEOUT 1500 LABELS long)
add_nic_test(nic.datapath.inline datapath_test OPTIONS ,sadb-size=0 TIMEOUT 1500 LABELS long)
string(JOIN : nic_datapath_debug
       *LocalCopies.Broadcast/* *IpOptions.OfThe*/* *Netem.Duplication/* *Tc.Mirror*/* *Tc.RedirectAndMirror*/*
       *Nftables.Dup*/* *Changes.Offload*/* *Queued/*DeleteNetem* *Queued/*CloseTbf* *QueuedLife* *Paths*/Plain*
       *Paths*/NoChecksum4* *Paths*/Vlan* *Paths*/Bridge* *Paths*/Bond* *Paths*/Vxlan* *Paths*/XfrmTransport*
       *Paths*/QdiscTbfCutsBatchesOver*)
add_nic_test(nic.datapath.debug datapath_test KERNEL debug TIMEOUT 2400 LABELS long
             ARGS --gtest_filter=${nic_datapath_debug})

# --- what a send costs ---------------------------------------------------------------------------
if(TARGET sender_bench)
  add_test(NAME bench.sender
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/bench/regression $<TARGET_FILE:sender_bench>
                   ${CMAKE_SOURCE_DIR}/build/log/test-bench.sender.log)
  set_tests_properties(bench.sender PROPERTIES LABELS "guest;release;bench" TIMEOUT 700)
endif()

# --- all at once ----------------------------------------------------------------------------------
add_guest_test(NAME stress COMMAND stress_test KERNEL release CPUS 2 TIMEOUT 1500 LABELS stress long)
add_guest_test(NAME stress.debug COMMAND stress_test KERNEL debug CPUS 2 TIMEOUT 3600 LABELS stress long)

# A short storm; QUIC_STORM_PACKETS=1000000 and other seeds for the long one (docs/hardening.md).
add_guest_test(NAME stress.storm COMMAND storm_test KERNEL release TIMEOUT 1500 LABELS stress long)
# 1,000,000 packets over its three wires.
add_guest_test(NAME stress.storm.million COMMAND storm_test KERNEL release TIMEOUT 7200 LABELS stress long
               ENV QUIC_STORM_PACKETS=333334 QUIC_STORM_BURST=64)
add_guest_test(NAME stress.storm.debug COMMAND storm_test KERNEL debug TIMEOUT 3000 LABELS stress long
               ENV QUIC_STORM_PACKETS=6000)
# Each allocation and each copy from user space on the way fails once.
add_guest_test(NAME fault COMMAND fault_test KERNEL debug TIMEOUT 3000 LABELS fault long)

# Whether anything grows, and whether that would be noticed. ./run soak is the long one.
if(TARGET soak)
  add_test(NAME soak.short COMMAND ${CMAKE_SOURCE_DIR}/run soak --no-build --name soak-short --kernel release --seconds 80 --spell 10)
  add_test(NAME soak.finds-leak COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/soak/finds-leak)
  set_tests_properties(soak.short soak.finds-leak PROPERTIES LABELS "guest;release;soak;long" TIMEOUT 1500
                       PROCESSORS 2)
endif()

# --- the kernel's own selftests -------------------------------------------------------------------
foreach(case udpgso udpgso_bench cmsg_so_mark cmsg_time cmsg_ipv6 msg_zerocopy tls)
  add_test(NAME selftests.${case} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/selftests/compare ${case})
  set_tests_properties(selftests.${case} PROPERTIES LABELS "guest;release;vanilla;selftests;long" TIMEOUT 700)
endforeach()

# What the series brings to tools/testing/selftests, on a simulated device.
add_test(NAME selftests.udp_crypto COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/selftests/udp_crypto)
set_tests_properties(selftests.udp_crypto PROPERTIES LABELS "guest;release;selftests" TIMEOUT 700)

# --- the tests themselves -------------------------------------------------------------------------
add_test(NAME mutations COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/mutations/run)
set_tests_properties(mutations PROPERTIES LABELS "guest;mutations;long" TIMEOUT 14400)
