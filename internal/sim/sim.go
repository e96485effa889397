// Package sim holds the simulation: the whole server with its real database, in virtual
// time, with clouds and hosts in memory that fail in every way they can. It has tests only.
//
// A seed decides about a world: clouds with their faults, hosts, fleets, runs, what users do,
// when the server is killed or overtaken by another. After every event the invariants are
// checked (see invariants_test.go); when the faults have stopped, everything must settle.
//
//	go test ./internal/sim                                    the seeds of CI
//	make simulate SEEDS=100000 FROM=1                         more of them
//	go test ./internal/sim -run TestSeeds -seeds 1 -from 42 -story   one, told
//
// docs/dev/simulation.md says what is simulated and how to read a failure.
package sim
