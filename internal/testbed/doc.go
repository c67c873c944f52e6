// Package testbed runs the real program between real servers, for tests: the
// binary as a process of its own, etcd, carbon-cache, statsd, and what stands
// in for them where a test wants to see every line.
//
// Everything listens on loopback addresses and lives in the test's own
// directory; what a test starts ends with the test. Waiting is for events,
// within patience, never for time to pass.
//
// The fault suite (fault*.go) asks whether lines are lost, on one daemon; the
// scenarios of the way out (wayout*.go) what it makes of servers that misbehave;
// the storm (storm*.go) whether two of many ever share a name. docs/FAULTS.md
// describes them.
//
// The servers come from the machine: carbon-cache (Debian's graphite-carbon),
// etcd (etcd-server), haproxy, stunnel (stunnel4) and carbon-c-relay from PATH,
// statsd (npm's) from the directory that PREFIXPROXY_TEST_STATSD names. A test whose server is missing is skipped, or
// fails where PREFIXPROXY_TEST_REQUIRE=1 says that all must be there.
package testbed
