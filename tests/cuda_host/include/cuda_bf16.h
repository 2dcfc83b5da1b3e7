/* In place of the toolkit's: cuda_host.h, included before, has what is in it. */
