/* What launchers say in the environment is understood, and what makes no sense is refused. */
#include "comm/board.h"
#include "comm/comm.h"
#include "comm/place.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const known[] = {"RANK",
				    "WORLD_SIZE",
				    "LOCAL_RANK",
				    "LOCAL_WORLD_SIZE",
				    "MASTER_ADDR",
				    "MASTER_PORT",
				    "MEGATUNE_PORT",
				    "MEGATUNE_TOKEN",
				    "TORCHELASTIC_USE_AGENT_STORE",
				    "TORCHELASTIC_RUN_ID",
				    "SLURM_PROCID",
				    "SLURM_STEP_NUM_TASKS",
				    "SLURM_LOCALID",
				    "SLURM_JOB_ID",
				    "SLURM_STEP_ID",
				    "SLURM_STEP_NODELIST",
				    "SLURM_JOB_NODELIST",
				    "OMPI_COMM_WORLD_SIZE",
				    "PMIX_RANK",
				    "PMI_RANK"};

/* "NAME=value NAME=value": the environment is that and nothing else a launcher would set. */
static void say(const char *words)
{
	char copy[512], *state = NULL;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		unsetenv(known[i]);
	strcpy(copy, words);
	for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
		char *equals = strchr(word, '=');
		*equals = '\0';
		setenv(word, equals + 1, 1);
	}
}

static struct mt_place find(const char *words, bool several)
{
	struct mt_place place;
	bool found;
	say(words);
	if (mt_place_find(&place, &found) != MT_OK)
		fail_msg("%s: %s", words, mt_error_message());
	assert_int_equal(found, several);
	return place;
}

static void refused(const char *words, const char *what)
{
	struct mt_place place;
	bool found;
	say(words);
	assert_int_equal(mt_place_find(&place, &found), MT_INPUT);
	if (!strstr(mt_error_message(), what))
		fail_msg("%s: the message does not say '%s': %s", words, what, mt_error_message());
	mt_error_clear();
}

static void torchrun_is_understood(void **state)
{
	struct mt_place p = find("RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=gpu01 MASTER_PORT=29500", true);
	assert_int_equal(p.rank, 3);
	assert_int_equal(p.size, 4);
	assert_int_equal(p.local_rank, 1);
	assert_int_equal(p.local_size, 2);
	assert_int_equal(p.port, 29500);
	assert_string_equal(p.address, "gpu01");
	assert_false(p.watched);
	/* Where its own store has the port. */
	p = find("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=29500 TORCHELASTIC_USE_AGENT_STORE=True", true);
	assert_int_equal(p.port, 29501);
	assert_int_equal(p.local_rank, -1);
	assert_true(find("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1 MEGATUNE_PORT=77 MEGATUNE_TOKEN=t", true).watched);
	assert_int_equal(p.token, find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=29501", true).token);
	assert_int_not_equal(p.token, find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=29502", true).token);
	find("RANK=0 WORLD_SIZE=1 MASTER_ADDR=h MASTER_PORT=29500", false);
	find("", false);
}

static void slurm_is_understood(void **state)
{
	struct mt_place p = find("SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=16 SLURM_LOCALID=1 SLURM_JOB_ID=812 SLURM_STEP_ID=0 "
				 "SLURM_STEP_NODELIST=gpu[03-05,11]",
				 true);
	assert_int_equal(p.rank, 5);
	assert_int_equal(p.size, 16);
	assert_int_equal(p.local_rank, 1);
	assert_string_equal(p.address, "gpu03");
	assert_in_range(p.port, MT_PLACE_PORT_FIRST, MT_PLACE_PORT_FIRST + MT_PLACE_PORTS - 1);
	/* A batch script is no rank, nor is a step of one task. */
	find("SLURM_PROCID=0 SLURM_JOB_ID=812 SLURM_JOB_NODELIST=a", false);
	find("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=812 SLURM_STEP_ID=4294967291", false);
	find("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_JOB_ID=812 SLURM_STEP_ID=0", false);
}

static void hosts_are_read_as_slurm_writes_them(void **state)
{
	static const char *const lists[][2] = {
		{"a", "a"}, {"a,b", "a"}, {"n[1-3]", "n1"}, {"n[007,9]", "n007"}, {"x-1.y,z[1-2]", "x-1.y"}};
	char host[16];
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		assert_int_equal(mt_place_first_host(lists[i][0], host, sizeof host), MT_OK);
		assert_string_equal(host, lists[i][1]);
	}
	assert_int_equal(mt_place_first_host("", host, sizeof host), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_place_first_host("n[x]", host, sizeof host), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_place_first_host("a-name-too-long-for-it", host, sizeof host), MT_INPUT);
	mt_error_clear();
}

static void a_free_port_is_none_of_those_in_use(void **state)
{
	struct mt_board_server *servers[8] = {NULL};
	int ports[8];
	for (int i = 0; i < 8; i++) {
		assert_int_equal(mt_place_free_port(&ports[i]), MT_OK);
		assert_in_range(ports[i], MT_PLACE_PORT_FIRST, MT_PLACE_PORT_FIRST + MT_PLACE_PORTS - 1);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(ports[i], ports[k]);
		assert_int_equal(mt_board_serve(&servers[i], ports[i], 1, true), MT_OK);
	}
	for (int i = 0; i < 8; i++)
		mt_board_stop(servers[i], 0);
}

static void nonsense_is_refused(void **state)
{
	refused("RANK=2 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1", "RANK is '2'");
	refused("RANK=0 WORLD_SIZE=x MASTER_ADDR=h MASTER_PORT=1", "WORLD_SIZE is 'x'");
	refused("RANK=0 WORLD_SIZE=2 MASTER_PORT=1", "MASTER_ADDR");
	refused("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h", "MASTER_PORT");
	refused("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=70000", "65535");
	refused("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=1 MASTER_ADDR=h MASTER_PORT=1", "LOCAL_RANK");
	refused("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=8 SLURM_STEP_ID=0", "SLURM_STEP_NODELIST");
}

static void the_fabric_is_that_of_the_launcher(void **state)
{
	say("");
	assert_string_equal(mt_fabric_launched_kind(), "self");
	say("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1");
	assert_string_equal(mt_fabric_launched_kind(), "tcp");
#ifdef MT_HAVE_MPI
	say("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1 OMPI_COMM_WORLD_SIZE=2");
	assert_string_equal(mt_fabric_launched_kind(), "mpi");
#endif
	say("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1 OMPI_COMM_WORLD_SIZE=2 MEGATUNE_TOKEN=t");
	assert_string_equal(mt_fabric_launched_kind(), "tcp");
	/* Told when it is opened. */
	say("RANK=7 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1");
	struct mt_fabric *fabric;
	assert_string_equal(mt_fabric_launched_kind(), "tcp");
	assert_int_equal(mt_fabric_create(&fabric, &(struct mt_fabric_config){.kind = "tcp"}), MT_INPUT);
	mt_error_clear();
	say("");
	assert_int_equal(mt_fabric_create(&fabric, &(struct mt_fabric_config){.kind = "tcp"}), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "megatune launch"));
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(torchrun_is_understood),
		cmocka_unit_test(slurm_is_understood),
		cmocka_unit_test(hosts_are_read_as_slurm_writes_them),
		cmocka_unit_test(a_free_port_is_none_of_those_in_use),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(the_fabric_is_that_of_the_launcher),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
