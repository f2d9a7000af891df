// SPDX-License-Identifier: GPL-2.0
/*
 * Counters and limits of a network namespace: /proc/net/udp_crypto_stat,
 * net.ipv4.udp_crypto_max_sa and net.ipv4.udp_crypto_max_sa_per_uid.
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/sysctl.h>
#include <net/ip.h>
#include <net/net_namespace.h>

#include "internal.h"

static const struct snmp_mib udp_crypto_mib_list[] = {
	SNMP_MIB_ITEM("TxPackets", UDP_CRYPTO_MIB_TXPACKETS),
	SNMP_MIB_ITEM("TxBytes", UDP_CRYPTO_MIB_TXBYTES),
	SNMP_MIB_ITEM("TxSends", UDP_CRYPTO_MIB_TXSENDS),
	SNMP_MIB_ITEM("TxGsoSends", UDP_CRYPTO_MIB_TXGSOSENDS),
	SNMP_MIB_ITEM("TxSoftware", UDP_CRYPTO_MIB_TXSOFTWARE),
	SNMP_MIB_ITEM("TxSoftwareLate", UDP_CRYPTO_MIB_TXSOFTWARELATE),
	SNMP_MIB_ITEM("TxDevice", UDP_CRYPTO_MIB_TXDEVICE),
	SNMP_MIB_ITEM("TxLost", UDP_CRYPTO_MIB_TXLOST),
	SNMP_MIB_ITEM("DropNoSa", UDP_CRYPTO_MIB_DROPNOSA),
	SNMP_MIB_ITEM("DropNoKeys", UDP_CRYPTO_MIB_DROPNOKEYS),
	SNMP_MIB_ITEM("DropNoMem", UDP_CRYPTO_MIB_DROPNOMEM),
	SNMP_MIB_ITEM("DropChanged", UDP_CRYPTO_MIB_DROPCHANGED),
	SNMP_MIB_ITEM("DropError", UDP_CRYPTO_MIB_DROPERROR),
	SNMP_MIB_ITEM("SaAdded", UDP_CRYPTO_MIB_SAADDED),
	SNMP_MIB_ITEM("SaDeleted", UDP_CRYPTO_MIB_SADELETED),
	SNMP_MIB_SENTINEL
};

/**
 * udp_crypto_stats_read() - the counters, summed up
 * @un: of the network namespace
 * @counters: filled in
 */
void udp_crypto_stats_read(const struct udp_crypto_net *un,
			   unsigned long counters[UDP_CRYPTO_MIB_MAX])
{
	memset(counters, 0, UDP_CRYPTO_MIB_MAX * sizeof(*counters));
	snmp_get_cpu_field_batch(counters, udp_crypto_mib_list, un->mib);
}

static int __maybe_unused udp_crypto_stat_show(struct seq_file *seq, void *v)
{
	struct udp_crypto_net *un = udp_crypto_pernet(seq->private);
	unsigned long buf[UDP_CRYPTO_MIB_MAX];
	int i;

	udp_crypto_stats_read(un, buf);
	for (i = 0; udp_crypto_mib_list[i].name; i++)
		seq_printf(seq, "%-32s\t%lu\n", udp_crypto_mib_list[i].name,
			   buf[i]);
	seq_printf(seq, "%-32s\t%u\n", "TxGsoMaxSegs",
		   READ_ONCE(un->gso_max_segs));
	seq_printf(seq, "%-32s\t%u\n", "SaCurr", READ_ONCE(un->count));
	return 0;
}

static unsigned int udp_sa_max_max = UDP_SA_MAX_MAX;

static const struct ctl_table udp_crypto_table[] = {
	{
		.procname	= "udp_crypto_max_sa",
		.maxlen		= sizeof(unsigned int),
		.mode		= 0644,
		.proc_handler	= proc_douintvec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= &udp_sa_max_max,
	},
	{
		.procname	= "udp_crypto_max_sa_per_uid",
		.maxlen		= sizeof(unsigned int),
		.mode		= 0644,
		.proc_handler	= proc_douintvec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= &udp_sa_max_max,
	},
};

static int udp_crypto_sysctl_init(struct net *net, struct udp_crypto_net *un)
{
	struct ctl_table *table;

	if (!IS_ENABLED(CONFIG_SYSCTL))
		return 0;
	table = kmemdup(udp_crypto_table, sizeof(udp_crypto_table), GFP_KERNEL);
	if (!table)
		return -ENOMEM;
	table[0].data = &un->max_sa;
	table[1].data = &un->max_sa_uid;
	un->sysctl = register_net_sysctl_sz(net, "net/ipv4", table,
					    ARRAY_SIZE(udp_crypto_table));
	if (!un->sysctl) {
		kfree(table);
		return -ENOMEM;
	}
	return 0;
}

static void udp_crypto_sysctl_exit(struct udp_crypto_net *un)
{
	const struct ctl_table *table;

	if (!IS_ENABLED(CONFIG_SYSCTL))
		return;
	table = un->sysctl->ctl_table_arg;
	unregister_net_sysctl_table(un->sysctl);
	kfree(table);
}

int udp_crypto_stats_init(struct net *net, struct udp_crypto_net *un)
{
	un->mib = alloc_percpu(struct udp_crypto_mib);
	if (!un->mib)
		return -ENOMEM;
	if (IS_ENABLED(CONFIG_PROC_FS) &&
	    !proc_create_net_single("udp_crypto_stat", 0444, net->proc_net,
				    udp_crypto_stat_show, NULL))
		goto err_mib;
	if (udp_crypto_sysctl_init(net, un))
		goto err_proc;
	return 0;

err_proc:
	remove_proc_entry("udp_crypto_stat", net->proc_net);
err_mib:
	free_percpu(un->mib);
	return -ENOMEM;
}

void udp_crypto_stats_exit(struct net *net, struct udp_crypto_net *un)
{
	udp_crypto_sysctl_exit(un);
	remove_proc_entry("udp_crypto_stat", net->proc_net);
	free_percpu(un->mib);
}
