// Package e2e tests the real binaries as a user would run them: a server, the CLI, and
// hosts that are containers with sshd and a Docker engine of their own.
//
// The tests carry the build tag "e2e", because they need root, Docker and images that
// scripts/test builds first. Run them with make e2e; one of them with
//
//	E2E_TAG=$(e2e/image/build) go test -tags e2e ./e2e -run TestRuns/Task -v
//
// TestReplicas also needs a PostgreSQL (TEST_POSTGRES, a URL of a user who may create
// schemas) and iptables; TestFaults needs to mount a file system; TestClockJump needs what
// e2e/clock/build builds.
package e2e
