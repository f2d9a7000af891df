/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ConnectX-7 Ethernet adapter: the PCI shell around libconnectx, which is the device.
 * This file knows QEMU and nothing of mlx5; the library knows mlx5 and nothing of QEMU.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci.h"
#include "hw/pci/pcie.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "net/net.h"
#include "qom/object.h"
#include "sysemu/cpu-timers.h"
#include "sysemu/dma.h"

#include <connectx_c.h>

#define TYPE_CONNECTX "connectx"
OBJECT_DECLARE_SIMPLE_TYPE(ConnectxState, CONNECTX)

#define CONNECTX_VENDOR_ID 0x15b3
#define CONNECTX_DEVICE_ID 0x1021 /* ConnectX-7 */
#define CONNECTX_VPD_SIZE 0x80
#define CONNECTX_VPD_CAP_SIZE 0x08
#define CONNECTX_MAX_COMPLAINTS 1000

struct ConnectxState {
    PCIDevice parent_obj;

    MemoryRegion bar;
    MemoryRegion mmio;
    NICState *nic;
    NICConf conf;
    QEMUBH *bh;
    QEMUTimer *timer;
    bool in_doorbell; /* a register write is under way that does its work itself */
    bool work_due;    /* asked for in there */
    struct connectx_device *dev;

    uint32_t queues;
    uint32_t msix_vectors;
    uint32_t sadb_size;
    bool quic;
    bool quic_inline;
    bool quic_lso;
    char *quic_ciphers;
    bool ipsec;
    bool tls;
    bool macsec;
    uint32_t min_inline;
    bool trace;
    unsigned complaints; /* of the model, about what the guest does */
    char *fault;

    uint8_t vsc_offset;
    uint8_t vpd_offset;
    uint16_t vpd_address;
    uint8_t vpd[CONNECTX_VPD_SIZE];
};

/* ---- what the model asks of its host ---------------------------------------------------------- */

/*
 * Only memory: a descriptor that points at some device's registers (the adapter's own, even) is
 * answered like one that points nowhere.
 */
static const MemTxAttrs connectx_dma_attrs = { .memory = 1 };

static bool connectx_host_dma_read(void *opaque, uint64_t addr, void *dst, size_t size)
{
    PCIDevice *pci = opaque;

    return dma_memory_read(pci_get_address_space(pci), addr, dst, size, connectx_dma_attrs) ==
           MEMTX_OK;
}

static bool connectx_host_dma_write(void *opaque, uint64_t addr, const void *src, size_t size)
{
    PCIDevice *pci = opaque;

    return dma_memory_write(pci_get_address_space(pci), addr, src, size, connectx_dma_attrs) ==
           MEMTX_OK;
}

static void connectx_host_msix_raise(void *opaque, unsigned vector)
{
    PCIDevice *pci = opaque;

    if (msix_enabled(pci)) {
        msix_notify(pci, vector);
    }
}

static void connectx_host_wire_tx(void *opaque, const void *frame, size_t size)
{
    ConnectxState *s = opaque;

    qemu_send_packet(qemu_get_queue(s->nic), frame, size);
}

static uint64_t connectx_host_clock_ns(void *opaque)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

static uint64_t connectx_host_realtime_ns(void *opaque)
{
    return qemu_clock_get_ns(QEMU_CLOCK_HOST);
}

static void connectx_host_schedule_work(void *opaque)
{
    ConnectxState *s = opaque;

    if (s->in_doorbell) {
        s->work_due = true;
    } else {
        qemu_bh_schedule(s->bh);
    }
}

static void connectx_host_arm_timer(void *opaque, uint64_t deadline_ns)
{
    ConnectxState *s = opaque;

    if (deadline_ns > INT64_MAX) {
        timer_del(s->timer);
    } else {
        timer_mod(s->timer, deadline_ns);
    }
}

static void connectx_host_rx_ready(void *opaque)
{
    ConnectxState *s = opaque;

    if (s->nic) {
        qemu_flush_queued_packets(qemu_get_queue(s->nic));
    }
}

static void connectx_host_log(void *opaque, enum connectx_log_level level, const char *text)
{
    ConnectxState *s = opaque;
    const char *id = DEVICE(s)->id ? DEVICE(s)->id : TYPE_CONNECTX;

    /* A guest can cause as many of these as it likes: it must not fill the host's log. */
    if ((level == CONNECTX_LOG_ERROR || level == CONNECTX_LOG_WARNING) && !s->trace) {
        if (s->complaints > CONNECTX_MAX_COMPLAINTS) {
            return;
        }
        if (++s->complaints > CONNECTX_MAX_COMPLAINTS) {
            warn_report("%s: from here on only with trace=on", id);
            return;
        }
    }
    switch (level) {
    case CONNECTX_LOG_ERROR:
        error_report("%s: %s", id, text);
        break;
    case CONNECTX_LOG_WARNING:
        warn_report("%s: %s", id, text);
        break;
    case CONNECTX_LOG_INFO:
    case CONNECTX_LOG_TRACE:
        if (s->trace) {
            info_report("%s: %s", id, text);
        }
        break;
    }
}

static const struct connectx_host_ops connectx_host_ops = {
    .dma_read = connectx_host_dma_read,
    .dma_write = connectx_host_dma_write,
    .msix_raise = connectx_host_msix_raise,
    .wire_tx = connectx_host_wire_tx,
    .clock_ns = connectx_host_clock_ns,
    .realtime_ns = connectx_host_realtime_ns,
    .schedule_work = connectx_host_schedule_work,
    .arm_timer = connectx_host_arm_timer,
    .rx_ready = connectx_host_rx_ready,
    .log = connectx_host_log,
};

static void connectx_work(void *opaque)
{
    ConnectxState *s = opaque;

    connectx_run(s->dev);
}

/* ---- BAR 0 ------------------------------------------------------------------------------------ */

static uint64_t connectx_mmio_ops_read(void *opaque, hwaddr addr, unsigned size)
{
    ConnectxState *s = opaque;
    uint64_t value = 0;

    if (!s->dev) {
        return UINT64_MAX; /* unplugged while a processor was on its way here */
    }
    connectx_mmio_read(s->dev, addr, &value, size);
    return le64_to_cpu(value);
}

/*
 * The adapter does its work within the write that asks for it, a budget's worth; the main loop does what
 * is left. Handing it all to the main loop's thread would cost more than most of it: an eventfd, and the
 * big lock twice, for every doorbell. With a clock that counts instructions (-icount) nothing is left: what
 * the guest sees must not depend on when that thread gets a processor.
 */
static void connectx_mmio_ops_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    ConnectxState *s = opaque;

    if (!s->dev) {
        return;
    }
    value = cpu_to_le64(value);
    if (s->in_doorbell) {
        connectx_mmio_write(s->dev, addr, &value, size);
        return;
    }
    s->in_doorbell = true;
    s->work_due = false;
    connectx_mmio_write(s->dev, addr, &value, size);
    if (s->work_due) {
        do {
            s->work_due = false;
            connectx_run(s->dev);
        } while (s->work_due && icount_enabled());
    }
    s->in_doorbell = false;
    if (s->work_due) {
        qemu_bh_schedule(s->bh);
    }
}

static const MemoryRegionOps connectx_mmio_ops = {
    .read = connectx_mmio_ops_read,
    .write = connectx_mmio_ops_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};

/* ---- configuration space ---------------------------------------------------------------------- */

static uint8_t *connectx_vpd_item(uint8_t *at, const char *keyword, const char *text)
{
    size_t length = strlen(text);

    memcpy(at, keyword, 2);
    at[2] = length;
    memcpy(at + 3, text, length);
    return at + 3 + length;
}

/* Vital product data: PCI Local Bus 3.0, appendix I. */
static void connectx_fill_vpd(ConnectxState *s)
{
    static const char name[] = "ConnectX-7 model";
    const uint8_t *mac = s->conf.macaddr.a;
    g_autofree char *serial = g_strdup_printf("UQO%02X%02X%02X%02X%02X%02X", mac[0], mac[1], mac[2],
                                              mac[3], mac[4], mac[5]);
    uint8_t *at = s->vpd;
    uint8_t *readonly;
    uint8_t sum = 0;

    *at++ = 0x82; /* identifier string */
    stw_le_p(at, sizeof(name) - 1);
    memcpy(at + 2, name, sizeof(name) - 1);
    at += 2 + sizeof(name) - 1;
    *at++ = 0x90; /* read-only fields */
    readonly = at;
    at += 2;
    at = connectx_vpd_item(at, "PN", "connectx-model");
    at = connectx_vpd_item(at, "SN", serial);
    memcpy(at, "RV\1", 3);
    at += 3;
    for (uint8_t *p = s->vpd; p < at; p++) {
        sum += *p;
    }
    stw_le_p(readonly, at + 1 - readonly - 2);
    sum += readonly[0] + readonly[1];
    *at++ = -sum;
    *at = 0x78; /* end */
}

static bool connectx_within(uint32_t address, int len, uint8_t start, unsigned size)
{
    return start && address >= start && address + len <= start + size;
}

static uint32_t connectx_config_read(PCIDevice *pci, uint32_t address, int len)
{
    ConnectxState *s = CONNECTX(pci);

    if (len == 4 && connectx_within(address, len, s->vsc_offset + 4, CONNECTX_VSC_SIZE - 4)) {
        return connectx_vsc_read(s->dev, address - s->vsc_offset);
    }
    return pci_default_read_config(pci, address, len);
}

static void connectx_config_write(PCIDevice *pci, uint32_t address, uint32_t value, int len)
{
    ConnectxState *s = CONNECTX(pci);

    if (len == 4 && connectx_within(address, len, s->vsc_offset + 4, CONNECTX_VSC_SIZE - 4)) {
        connectx_vsc_write(s->dev, address - s->vsc_offset, value);
        return;
    }
    if (len == 2 && address == s->vpd_offset + PCI_VPD_ADDR) {
        /* A read: the flag says when the data is there. Writes to the VPD never complete. */
        uint16_t at = value & PCI_VPD_ADDR_MASK & ~3;
        uint32_t data = 0;

        if (!(value & PCI_VPD_ADDR_F)) {
            if (at + 4 <= CONNECTX_VPD_SIZE) {
                data = ldl_le_p(s->vpd + at);
            }
            pci_set_long(pci->config + s->vpd_offset + PCI_VPD_DATA, data);
            pci_set_word(pci->config + address, (value & PCI_VPD_ADDR_MASK) | PCI_VPD_ADDR_F);
        } else {
            pci_set_word(pci->config + address, value);
        }
        return;
    }
    pci_default_write_config(pci, address, value, len);
    if (pci->exp.exp_cap) {
        pcie_cap_flr_write_config(pci, address, value, len);
    }
}

/* ---- network ---------------------------------------------------------------------------------- */

static bool connectx_nc_can_receive(NetClientState *nc)
{
    ConnectxState *s = qemu_get_nic_opaque(nc);

    return connectx_can_receive(s->dev);
}

static ssize_t connectx_nc_receive(NetClientState *nc, const uint8_t *buf, size_t size)
{
    ConnectxState *s = qemu_get_nic_opaque(nc);

    /* Within a call of the device: QEMU keeps the frame until connectx_host_rx_ready(). */
    if (!connectx_can_receive(s->dev)) {
        return 0;
    }
    /* A frame that is dropped was received all the same, as on a real wire. */
    connectx_wire_rx(s->dev, buf, size);
    return size;
}

static void connectx_nc_link_status_changed(NetClientState *nc)
{
    ConnectxState *s = qemu_get_nic_opaque(nc);

    connectx_set_link(s->dev, !nc->link_down);
}

static NetClientInfo connectx_net_info = {
    .type = NET_CLIENT_DRIVER_NIC,
    .size = sizeof(NICState),
    .can_receive = connectx_nc_can_receive,
    .receive = connectx_nc_receive,
    .link_status_changed = connectx_nc_link_status_changed,
};

/* ---- fault injection and introspection -------------------------------------------------------- */

static void connectx_apply_fault(ConnectxState *s, const char *spec, Error **errp)
{
    char why[128] = "";

    if (!connectx_inject_fault(s->dev, spec, why, sizeof(why))) {
        error_setg(errp, "x-fault: %s", why);
    }
}

static char *connectx_get_fault(Object *obj, Error **errp)
{
    return g_strdup(CONNECTX(obj)->fault ? CONNECTX(obj)->fault : "");
}

static void connectx_set_fault(Object *obj, const char *value, Error **errp)
{
    ConnectxState *s = CONNECTX(obj);

    if (s->dev && *value) {
        connectx_apply_fault(s, value, errp);
        if (*errp) {
            return;
        }
    }
    g_free(s->fault);
    s->fault = g_strdup(value);
}

static char *connectx_get_model_state(Object *obj, Error **errp)
{
    ConnectxState *s = CONNECTX(obj);
    char *text;
    size_t length;

    if (!s->dev) {
        return g_strdup("");
    }
    length = connectx_describe(s->dev, NULL, 0);
    text = g_malloc(length + 1);
    connectx_describe(s->dev, text, length + 1);
    return text;
}

/* ---- life ------------------------------------------------------------------------------------- */

static void connectx_qdev_reset(DeviceState *dev)
{
    ConnectxState *s = CONNECTX(dev);

    connectx_reset(s->dev);
    msix_reset(PCI_DEVICE(s));
}

static void connectx_realize(PCIDevice *pci, Error **errp)
{
    ConnectxState *s = CONNECTX(pci);
    struct connectx_config config = {
        .msix_vectors = s->msix_vectors,
        .max_queues = s->queues,
        .sadb_size = s->sadb_size,
        .quic = s->quic,
        .quic_inline = s->quic_inline,
        .quic_lso = s->quic_lso,
        .ipsec = s->ipsec,
        .tls = s->tls,
        .macsec = s->macsec,
        .min_inline = s->min_inline,
        .trace = s->trace,
    };
    int offset;

    if (!connectx_parse_quic_ciphers(s->quic_ciphers, &config.quic_ciphers)) {
        error_setg(errp, "quic-ciphers: '%s' is not made of " CONNECTX_ALL_QUIC_CIPHERS,
                   s->quic_ciphers);
        return;
    }
    qemu_macaddr_default_if_unset(&s->conf.macaddr);
    memcpy(config.mac, s->conf.macaddr.a, sizeof(config.mac));

    s->bh = qemu_bh_new_guarded(connectx_work, s, &DEVICE(s)->mem_reentrancy_guard);
    s->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, connectx_work, s);
    s->dev = connectx_new(&connectx_host_ops, s, &config);
    if (!s->dev) {
        error_setg(errp,
                   "queues must be 16 to 4096, msix-vectors 2 to %d, sadb-size 0 to %u, "
                   "min-inline 0 to %d",
                   CONNECTX_MAX_MSIX_VECTORS, CONNECTX_MAX_SADB_SIZE, CONNECTX_MAX_MIN_INLINE);
        goto fail;
    }

    memory_region_init(&s->bar, OBJECT(s), "connectx-bar0", CONNECTX_BAR_SIZE);
    memory_region_init_io(&s->mmio, OBJECT(s), &connectx_mmio_ops, s, "connectx-mmio",
                          CONNECTX_BAR_SIZE);
    memory_region_add_subregion_overlap(&s->bar, 0, &s->mmio, -1);
    pci_register_bar(pci, 0,
                     PCI_BASE_ADDRESS_SPACE_MEMORY | PCI_BASE_ADDRESS_MEM_TYPE_64 |
                         PCI_BASE_ADDRESS_MEM_PREFETCH,
                     &s->bar);
    if (msix_init(pci, s->msix_vectors, &s->bar, 0, CONNECTX_MSIX_TABLE_OFFSET, &s->bar, 0,
                  CONNECTX_MSIX_PBA_OFFSET, 0, errp) < 0) {
        goto fail_bar;
    }
    for (unsigned i = 0; i < s->msix_vectors; i++) {
        msix_vector_use(pci, i);
    }

    offset = pci_add_capability(pci, PCI_CAP_ID_VNDR, 0, CONNECTX_VSC_SIZE, errp);
    if (offset < 0) {
        goto fail_msix;
    }
    s->vsc_offset = offset;
    pci_set_byte(pci->config + offset + 2, CONNECTX_VSC_SIZE);

    offset = pci_add_capability(pci, PCI_CAP_ID_VPD, 0, CONNECTX_VPD_CAP_SIZE, errp);
    if (offset < 0) {
        goto fail_msix;
    }
    s->vpd_offset = offset;
    connectx_fill_vpd(s);

    if (pci_bus_is_express(pci_get_bus(pci))) {
        const uint32_t link = QEMU_PCI_EXP_LNKCAP_MLW(QEMU_PCI_EXP_LNK_X16) |
                              QEMU_PCI_EXP_LNKCAP_MLS(QEMU_PCI_EXP_LNK_16GT);
        uint8_t *cap;

        if (pcie_endpoint_cap_init(pci, 0) < 0) {
            error_setg(errp, "no room for the PCI Express capability");
            goto fail_msix;
        }
        pcie_cap_flr_init(pci);
        cap = pci->config + pci->exp.exp_cap;
        pci_long_test_and_clear_mask(cap + PCI_EXP_LNKCAP, PCI_EXP_LNKCAP_MLW | PCI_EXP_LNKCAP_SLS);
        pci_long_test_and_set_mask(cap + PCI_EXP_LNKCAP, link);
        pci_word_test_and_clear_mask(cap + PCI_EXP_LNKSTA, PCI_EXP_LNKSTA_NLW | PCI_EXP_LNKSTA_CLS);
        pci_word_test_and_set_mask(cap + PCI_EXP_LNKSTA, link);
        /* From 8 GT/s on this, and not LNKCAP, says which speeds there are. */
        pci_set_long(cap + PCI_EXP_LNKCAP2, PCI_EXP_LNKCAP2_SLS_2_5GB | PCI_EXP_LNKCAP2_SLS_5_0GB |
                                                PCI_EXP_LNKCAP2_SLS_8_0GB |
                                                PCI_EXP_LNKCAP2_SLS_16_0GB);
    }

    s->nic = qemu_new_nic(&connectx_net_info, &s->conf, object_get_typename(OBJECT(s)),
                          DEVICE(s)->id, &DEVICE(s)->mem_reentrancy_guard, s);
    qemu_format_nic_info_str(qemu_get_queue(s->nic), s->conf.macaddr.a);
    if (s->fault && *s->fault) {
        Error *local = NULL;

        connectx_apply_fault(s, s->fault, &local);
        if (local) {
            error_propagate(errp, local);
            qemu_del_nic(s->nic);
            s->nic = NULL;
            goto fail_msix;
        }
    }
    return;

fail_msix:
    msix_uninit(pci, &s->bar, &s->bar);
fail_bar:
    memory_region_del_subregion(&s->bar, &s->mmio);
fail:
    if (s->dev) {
        connectx_free(s->dev);
        s->dev = NULL;
    }
    timer_free(s->timer);
    qemu_bh_delete(s->bh);
}

static void connectx_exit(PCIDevice *pci)
{
    ConnectxState *s = CONNECTX(pci);

    qemu_del_nic(s->nic);
    s->nic = NULL;
    if (pci->exp.exp_cap) {
        pcie_cap_exit(pci);
    }
    msix_uninit(pci, &s->bar, &s->bar);
    /* A region inside of another holds its owner, which is this device: it would never be finalized. */
    memory_region_del_subregion(&s->bar, &s->mmio);
    connectx_free(s->dev);
    s->dev = NULL;
    timer_free(s->timer);
    qemu_bh_delete(s->bh);
}

static void connectx_finalize(Object *obj)
{
    g_free(CONNECTX(obj)->fault);
}

static Property connectx_properties[] = {
    DEFINE_NIC_PROPERTIES(ConnectxState, conf),
    DEFINE_PROP_UINT32("queues", ConnectxState, queues, 1024),
    DEFINE_PROP_UINT32("msix-vectors", ConnectxState, msix_vectors, 33),
    DEFINE_PROP_BOOL("quic", ConnectxState, quic, true),
    DEFINE_PROP_UINT32("sadb-size", ConnectxState, sadb_size, 65536),
    DEFINE_PROP_BOOL("quic-inline", ConnectxState, quic_inline, true),
    DEFINE_PROP_BOOL("quic-lso", ConnectxState, quic_lso, true),
    DEFINE_PROP_STRING("quic-ciphers", ConnectxState, quic_ciphers),
    DEFINE_PROP_BOOL("ipsec", ConnectxState, ipsec, false),
    DEFINE_PROP_BOOL("tls", ConnectxState, tls, false),
    DEFINE_PROP_BOOL("macsec", ConnectxState, macsec, false),
    DEFINE_PROP_UINT32("min-inline", ConnectxState, min_inline, 0),
    DEFINE_PROP_BOOL("trace", ConnectxState, trace, false),
    DEFINE_PROP_END_OF_LIST(),
};

static const VMStateDescription connectx_vmstate = {
    .name = TYPE_CONNECTX,
    .unmigratable = 1,
};

static void connectx_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = connectx_realize;
    pc->exit = connectx_exit;
    pc->config_read = connectx_config_read;
    pc->config_write = connectx_config_write;
    pc->vendor_id = CONNECTX_VENDOR_ID;
    pc->device_id = CONNECTX_DEVICE_ID;
    pc->subsystem_vendor_id = CONNECTX_VENDOR_ID;
    pc->subsystem_id = 0x0001;
    pc->class_id = PCI_CLASS_NETWORK_ETHERNET;
    dc->desc = "ConnectX-7 Ethernet adapter (model)";
    dc->reset = connectx_qdev_reset;
    dc->vmsd = &connectx_vmstate;
    device_class_set_props(dc, connectx_properties);
    set_bit(DEVICE_CATEGORY_NETWORK, dc->categories);
    object_class_property_add_str(klass, "x-fault", connectx_get_fault, connectx_set_fault);
    object_class_property_set_description(klass, "x-fault",
                                          "fault to inject: NAME[,key=value]...");
    object_class_property_add_str(klass, "model-state", connectx_get_model_state, NULL);
    object_class_property_set_description(klass, "model-state",
                                          "counters and objects of the model, as text");
}

static const TypeInfo connectx_info = {
    .name = TYPE_CONNECTX,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(ConnectxState),
    .instance_finalize = connectx_finalize,
    .class_init = connectx_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_PCIE_DEVICE },
        { }
    },
};

static void connectx_register_types(void)
{
    type_register_static(&connectx_info);
}

type_init(connectx_register_types)
