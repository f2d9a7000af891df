# SPDX-License-Identifier: GPL-2.0
#
# cmake --install: what a program that uses the interface needs, and the manual pages. The tool with its
# page and its completion installs itself (tools/quic-sadb-ctl).
#
# The kernel's headers go into a folder of their own, which pkg-config and the CMake package name: in the
# system's <linux/> they would be in the way of the day when the kernel's own package brings them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_include ${CMAKE_INSTALL_INCLUDEDIR}/udp-quic-offload)
set(package_cmake ${CMAKE_INSTALL_DATADIR}/cmake/udp-quic-offload)

install(FILES include/udp_quic_offload.h include/udp_quic_offload.hpp DESTINATION ${package_include})
install(DIRECTORY include/uapi/linux DESTINATION ${package_include} FILES_MATCHING PATTERN "*.h")
install(FILES docs/man/udp_crypto.7 DESTINATION ${CMAKE_INSTALL_MANDIR}/man7)
install(FILES docs/man/udp_quic_offload.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)

add_library(udp_quic_offload INTERFACE)
target_include_directories(udp_quic_offload INTERFACE $<INSTALL_INTERFACE:${package_include}>)
install(TARGETS udp_quic_offload EXPORT udp-quic-offload)
install(EXPORT udp-quic-offload NAMESPACE udp-quic-offload:: DESTINATION ${package_cmake}
        FILE udp-quic-offload-config.cmake)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/udp-quic-offload-config-version.cmake
                                 COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_BINARY_DIR}/udp-quic-offload-config-version.cmake DESTINATION ${package_cmake})

# The file knows where it is, so that an installed tree can be moved.
file(RELATIVE_PATH package_up /prefix/${CMAKE_INSTALL_DATADIR}/pkgconfig /prefix)
configure_file(cmake/udp-quic-offload.pc.in udp-quic-offload.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/udp-quic-offload.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
