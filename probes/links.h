/* links: the GPUs and network cards of this host, the PCIe links they hang on, and how near they are to each other. From /sys,
 * so a copy of it is enough to test with; what only the NVIDIA driver knows (names, memory, NVLinks) is added from it. */
#ifndef MT_PROBES_LINKS_H
#define MT_PROBES_LINKS_H

#include "base/nvml.h"
#include "probes/machine.h"

#define MT_LINKS_GPUS 16
#define MT_LINKS_NICS 32

struct mt_links {
	int gpu_count, nic_count;
	struct mt_machine_gpu gpus[MT_LINKS_GPUS]; /* by bus id */
	struct mt_machine_nic nics[MT_LINKS_NICS];
	/* Where each hangs: the components of its path below /sys/devices, "pci0000:00/0000:00:01.0/0000:01:00.0". */
	char gpu_paths[MT_LINKS_GPUS][256], nic_paths[MT_LINKS_NICS][256];
	/* NVLinks between two GPUs; through a switch: the fewer of both. */
	int nvlinks[MT_LINKS_GPUS][MT_LINKS_GPUS];
};

/* Reads /sys below root; what is there beyond the limits is left out. */
void mt_links_read(const char *root, struct mt_links *links);
/* Adds what the driver says of the GPUs it knows; nvml NULL: nothing. */
void mt_links_ask_driver(struct mt_links *links, const struct mt_nvml *nvml);
/* Fills peers, and the nearest NIC of each GPU: a NIC as near to several GPUs is dealt out in turn. */
void mt_links_join(struct mt_links *links);
/* All three for this host. */
void mt_links_of_host(struct mt_links *links);

/* How two devices of a host reach each other, nearest first, named as nvidia-smi names it. */
enum mt_link_path {
	MT_PATH_PIX,  /* one PCIe switch at most */
	MT_PATH_PXB,  /* several PCIe switches */
	MT_PATH_PHB,  /* through the processor, below one host bridge */
	MT_PATH_NODE, /* between host bridges of one NUMA node */
	MT_PATH_SYS   /* between NUMA nodes */
};
enum mt_link_path mt_links_path(const char *path_a, int numa_a, const char *path_b, int numa_b);
const char *mt_links_path_name(enum mt_link_path path);

/* GB/s of one direction: of a PCIe link after its coding (8b/10b to generation 2, 128b/130b after), and of one NVLink, by the
 * version number that the driver gives. */
double mt_links_pcie_gbps(int generation, int width);
double mt_links_nvlink_gbps(int version);

#endif
