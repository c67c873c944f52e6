package testbed

import (
	"os"
	"os/exec"
	"testing"
)

// lookPath finds a program that a test needs.
func lookPath(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		missing(t, program+" is not installed (Debian's "+pkg+")")
	}
	return path
}

// missing ends a test that lacks something: skipped, or failed where everything
// must be there.
func missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("PREFIXPROXY_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// needRoot skips a test of something that root alone can make.
func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip(what + " needs root")
	}
}
