// Package planted plants bugs: it builds or tests this module with a few lines
// of its source exchanged, and leaves the source as it is. A test suite that
// claims to find a bug shows it by finding a planted one.
//
// The exchange is the go command's -overlay; nothing in the shipped binary
// knows of it, and nothing that the binary can be told turns a bug on.
//
// # Not promised
//
// That a planted bug is the only difference: what is built here is built
// without the race detector and without a version. A bug that does not compile
// ends the test, and is not taken for one that was found.
package planted

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An Edit exchanges one place in a file of this module.
type Edit struct {
	File string // from the module's root: "membership/keep.go"
	Old  string // occurs once in File, to the letter
	New  string
}

// Patience skips a test that plants bugs, unless PREFIXPROXY_TEST_PLANTED is set: each bug
// is a build of its own, and a fault to be waited for. That the edits can be made is looked
// at in any case.
func Patience(t testing.TB, edits ...Edit) {
	t.Helper()
	Overlay(t, edits...)
	if os.Getenv("PREFIXPROXY_TEST_PLANTED") == "" {
		t.Skip("builds the program once for each bug; set PREFIXPROXY_TEST_PLANTED=1 to run it")
	}
}

// Overlay returns the path of a file for the go command's -overlay, which makes
// the edits, in their order. It fails the test when an Edit's Old is not found
// exactly once: then the code has changed, and the edit is to be changed too.
func Overlay(t testing.TB, edits ...Edit) string {
	t.Helper()
	path, err := Write(moduleRoot(t), t.TempDir(), edits...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Binary builds the daemon with the edits made, and returns its path. It is
// there until the test ends.
func Binary(t testing.TB, edits ...Edit) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "prefixproxy")
	goCommand(t, "build", "-overlay", Overlay(t, edits...), "-o", path, "./cmd/prefixproxy")
	return path
}

// TestFails runs tests of the package pkg ("./membership", from the module's
// root) with the edits made, and fails the test when none of them fails. args
// are the test binary's: "-test.run=^TestRace$". It returns what the binary
// printed, so that the caller can look at why it failed.
//
// Only a test that says FAIL has failed: a bug that does not compile, and a
// binary that ends in another way, fail the caller's test.
func TestFails(t testing.TB, pkg string, args []string, edits ...Edit) (output string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "planted.test")
	goCommand(t, "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", Overlay(t, edits...), "-o", binary, pkg)
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir = filepath.Join(moduleRoot(t), pkg)
	out, err := cmd.CombinedOutput()
	switch _, exited := errors.AsType[*exec.ExitError](err); {
	case err == nil:
		t.Fatalf("the tests of %s do not see the planted bug; %q printed:\n%s", pkg, args, out)
	case !exited || !strings.Contains(string(out), "--- FAIL: "):
		t.Fatalf("run the tests of %s with a planted bug: %v, and no test failed; %q printed:\n%s", pkg, err, args, out)
	}
	return string(out)
}

// Write writes the edited files of the module at root, and their list, into dir,
// and returns the path of the list: for programs that are no tests.
func Write(root, dir string, edits ...Edit) (path string, err error) {
	texts := make(map[string]string) // by file
	for _, e := range edits {
		text, edited := texts[e.File]
		if !edited {
			data, err := os.ReadFile(filepath.Join(root, e.File))
			if err != nil {
				return "", fmt.Errorf("read the file to plant a bug in: %w", err)
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("%s has the text to plant a bug at %d times, want once; change the edit as the code has changed:\n%s", e.File, n, e.Old)
		}
		texts[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	var list struct{ Replace map[string]string }
	list.Replace = make(map[string]string)
	for file, text := range texts {
		edited := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			return "", err
		}
		list.Replace[filepath.Join(root, file)] = edited
	}
	data, err := json.Marshal(list)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, data, 0o600)
}

// moduleRoot returns the directory of go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	root, err := findRoot()
	if err != nil {
		t.Fatalf("find the module's root: %v", err)
	}
	return root
}

var findRoot = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
})

// goCommand runs the go command in the module's root.
func goCommand(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = moduleRoot(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}
