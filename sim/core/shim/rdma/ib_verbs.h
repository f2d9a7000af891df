/* SPDX-License-Identifier: GPL-2.0 */
#pragma once
#include <linux/types.h>
struct ib_grh {
    u8 raw[40];
};
