package testbed

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// programDir is where the program is built; Main makes it.
var programDir string

// sharedEtcdDir has the data of sharedEtcd; Main makes it.
var sharedEtcdDir string

// main is the TestMain of a package whose tests run the program.
func main(m *testing.M) int {
	if part, ok := os.LookupEnv(partVariable); ok {
		return playPart(part)
	}
	dir, err := os.MkdirTemp("", "prefixproxy-testbed-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programDir = dir
	if sharedEtcdDir, err = sidebyside.NewMemoryDir(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(sharedEtcdDir)
	return sidebyside.M{M: m, Most: pick(raceEnabled, 10, 24)}.Run() // they mostly wait
}

// build builds the program once, with the race detector where the test has it:
// a race in the daemon then fails the test by its exit code.
var build = sync.OnceValues(func() (path string, err error) {
	if err := lookAtSources(); err != nil {
		return "", err
	}
	path = filepath.Join(programDir, "prefixproxy")
	args := []string{"build", "-ldflags=-s -w", "-o", path} // linked sooner
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/prefixproxy/prefixproxy/cmd/prefixproxy")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return path, nil
})

// lookAtSources looks at each file of the module, for the go command to see: it
// knows what a test was linked of and has looked at, and else takes the result of
// a test of a program that has changed since from its cache.
func lookAtSources() error {
	return filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil {
			_, err = os.Stat(path)
		}
		return err
	})
}

// program returns the command that runs the real program with args. Its
// environment holds vars, each "NAME=value", and nothing else of ours.
func program(t testing.TB, vars []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append([]string{"GORACE=halt_on_error=1"}, vars...)
	return cmd
}

// writeFile writes a file, and returns its path, which is given in parts.
func writeFile(t testing.TB, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
