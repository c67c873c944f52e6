package planted

import (
	"os/exec"
	"strings"
	"testing"
)

var bug = Edit{
	File: "internal/conf/conf.go",
	Old:  `return p.Path + ": " + p.Text + " (" + p.Hint + ")"`,
	New:  `return p.Path + ": " + p.Text`,
}

func TestPlantedBugIsFound(t *testing.T) {
	out := TestFails(t, "./internal/conf", []string{"-test.run=^TestProblems$"}, bug)
	if !strings.Contains(out, "--- FAIL: TestProblems") {
		t.Errorf("the output does not say that TestProblems failed:\n%s", out)
	}
}

// The binary is built with the edit, and the source is as it was.
func TestBinaryOfPlantedBugs(t *testing.T) {
	Patience(t)
	path := Binary(t, Edit{
		File: "cmd/prefixproxy/main.go",
		Old:  "func main() {",
		New:  "func main() {\n\tpanic(\"planted\")\n",
	})
	out, err := exec.Command(path, "version").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: planted") {
		t.Errorf("the binary with the bug: got %v, want a panic; it printed:\n%s", err, out)
	}
}

// What is not found exactly once is an error which shows the edit.
func TestEditIsKeptUp(t *testing.T) {
	for name, edits := range map[string][]Edit{
		"never":            {{bug.File, "no such line", ""}},
		"twice":            {{bug.File, "func (ps", "func (q"}},
		"gone by an edit":  {bug, bug},
		"file is not here": {{"internal/conf/no.go", "no such line", ""}},
	} {
		if _, err := Write(moduleRoot(t), t.TempDir(), edits...); err == nil {
			t.Errorf("%s: got no error", name)
		} else if name != "file is not here" && !strings.Contains(err.Error(), edits[0].Old) {
			t.Errorf("%s: got %q, want the text that was looked for in it", name, err)
		}
	}
}
