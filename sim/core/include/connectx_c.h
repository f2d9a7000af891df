/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C face of the device model, for hosts written in C. Semantics are those of
 * connectx/host.h and connectx/device.h; no C++ exception ever crosses it.
 */
#ifndef CONNECTX_C_H
#define CONNECTX_C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CONNECTX_BAR_SIZE (32ULL << 20)
#define CONNECTX_MSIX_TABLE_OFFSET 0x2000
#define CONNECTX_MSIX_PBA_OFFSET 0x3000
#define CONNECTX_MAX_MSIX_VECTORS 128
#define CONNECTX_MAX_SADB_SIZE (1U << 21)
#define CONNECTX_MAX_MIN_INLINE 3
/* Length of the vendor-specific PCI capability, bytes. */
#define CONNECTX_VSC_SIZE 0x18

enum connectx_log_level {
    CONNECTX_LOG_ERROR,
    CONNECTX_LOG_WARNING,
    CONNECTX_LOG_INFO,
    CONNECTX_LOG_TRACE,
};

/* What the host does for the device; `opaque` is the pointer given to connectx_new(). */
struct connectx_host_ops {
    bool (*dma_read)(void *opaque, uint64_t addr, void *dst, size_t size);
    bool (*dma_write)(void *opaque, uint64_t addr, const void *src, size_t size);
    void (*msix_raise)(void *opaque, unsigned vector);
    void (*wire_tx)(void *opaque, const void *frame, size_t size);
    uint64_t (*clock_ns)(void *opaque);
    uint64_t (*realtime_ns)(void *opaque);
    void (*schedule_work)(void *opaque);
    void (*arm_timer)(void *opaque, uint64_t deadline_ns);
    void (*rx_ready)(void *opaque);
    void (*log)(void *opaque, enum connectx_log_level level, const char *text);
};

struct connectx_config {
    uint8_t mac[6];
    unsigned msix_vectors;
    unsigned max_queues;
    unsigned sadb_size; /* 0 .. CONNECTX_MAX_SADB_SIZE */
    bool quic;
    bool quic_inline;
    bool quic_lso;
    unsigned quic_ciphers; /* see connectx_parse_quic_ciphers() */
    bool ipsec;
    bool tls;
    bool macsec;
    unsigned min_inline; /* 0 .. CONNECTX_MAX_MIN_INLINE */
    bool trace;
};

#define CONNECTX_ALL_QUIC_CIPHERS "aes-128-gcm:aes-256-gcm:chacha20-poly1305:aes-128-ccm"
/* These or fewer of them; null is all. False for an unknown name. */
bool connectx_parse_quic_ciphers(const char *text, unsigned *ciphers);

struct connectx_device;

/* Null when the configuration is out of range; `ops` must outlive the device. */
struct connectx_device *connectx_new(const struct connectx_host_ops *ops, void *opaque,
                                     const struct connectx_config *config);
void connectx_free(struct connectx_device *dev);

void connectx_mmio_read(struct connectx_device *dev, uint64_t offset, void *data, size_t size);
void connectx_mmio_write(struct connectx_device *dev, uint64_t offset, const void *data,
                         size_t size);
uint32_t connectx_vsc_read(struct connectx_device *dev, unsigned offset);
void connectx_vsc_write(struct connectx_device *dev, unsigned offset, uint32_t value);
void connectx_run(struct connectx_device *dev);
bool connectx_can_receive(struct connectx_device *dev);
bool connectx_wire_rx(struct connectx_device *dev, const void *frame, size_t size);
void connectx_set_link(struct connectx_device *dev, bool up);
void connectx_reset(struct connectx_device *dev);

/* False on error, with the reason in `error` (always terminated). */
bool connectx_inject_fault(struct connectx_device *dev, const char *spec, char *error,
                           size_t error_size);
/* State and counters as text; returns the length without the terminator, as snprintf() does. */
size_t connectx_describe(struct connectx_device *dev, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
