//go:build linux

package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A recipe is one of docs/RECIPES.md: a heading, a text in a language, and what it gives.
type recipe struct{ name, language, text, gives string }

var recipePattern = regexp.MustCompile("(?m)^### (.+)\n(?s:.*?)\n```([a-z]+)\n((?s:.*?))```\n\ngives (.+)$")

// The recipes do what they say, with the real programs, on the usual ports.
func TestRecipes(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/RECIPES.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(document), "\n## Not run by the tests\n")
	found := recipePattern.FindAllStringSubmatch(text, -1)
	if want := strings.Count(text, "\n### "); len(found) != want || want < 9 {
		t.Fatalf("%d recipes say what they give, of %d", len(found), want)
	}
	for _, f := range found {
		r := recipe{f[1], f[2], f[3], f[4]}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			r.run(t)
		})
	}
}

// run runs the recipe on a machine whose network it has for itself, with prefixproxy dev.
func (r recipe) run(t *testing.T) {
	far := newFaraway(t)
	far.ip("-n", far.name, "link", "set", "lo", "up")
	dir := t.TempDir()
	command := r.command(t, dir)
	dev := start(t, far.command(program(t, []string{"TMPDIR=" + dir}, "dev")))
	dev.Stderr.Await(t, "the page:")
	cmd := far.command(command)
	cmd.Dir = command.Dir
	recipe := start(t, cmd)
	for _, line := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r.gives, -1) {
		dev.Stdout.Await(t, line[1])
	}
	if r.language != "collectd" && r.language != "icinga" {
		if code := recipe.ExitCode(t); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	}
	if host, _ := os.Hostname(); len(host) >= 4 && strings.Contains(dev.Stdout.Text(), host) {
		t.Errorf("the host name is in a path:\n%s", dev.Stdout.Text())
	}
}

// command makes cmd run in the namespace.
func (f *faraway) command(cmd *exec.Cmd) *exec.Cmd {
	inside := exec.Command("ip", append([]string{"netns", "exec", f.name, cmd.Path}, cmd.Args[1:]...)...)
	inside.Env = cmd.Env
	return inside
}

// command returns what runs the text.
func (r recipe) command(t *testing.T, dir string) *exec.Cmd {
	write := func(name string) string { return writeFile(t, r.text, dir, name) }
	var cmd *exec.Cmd
	switch r.language {
	case "sh":
		lookPath(t, "nc", "netcat-openbsd")
		cmd = exec.Command("sh", "-e", write("recipe.sh"))
	case "python":
		cmd = exec.Command("/usr/bin/python3", write("recipe.py"))
		r.needs(t, "python3-statsd", "/usr/bin/python3", "-c", "import statsd")
	case "js":
		modules := filepath.Dir(os.Getenv("PREFIXPROXY_TEST_STATSD"))
		if _, err := os.Stat(filepath.Join(modules, "hot-shots")); err != nil {
			missing(t, "no hot-shots (npm's) beside $PREFIXPROXY_TEST_STATSD")
		}
		cmd = exec.Command(lookPath(t, "node", "nodejs"), write("recipe.js"))
		cmd.Env = []string{"NODE_PATH=" + modules}
	case "go":
		cmd = exec.Command(lookPath(t, "go", "golang"), "run", write("recipe.go"))
		cmd.Dir = "../.."
		cmd.Env = os.Environ()
	case "ruby":
		cmd = exec.Command(lookPath(t, "ruby", "ruby"), write("recipe.rb"))
		r.needs(t, "ruby-statsd", "ruby", "-e", `require "statsd"`)
	case "perl":
		cmd = exec.Command(lookPath(t, "perl", "perl"), write("recipe.pl"))
		r.needs(t, "libnet-statsd-perl", "perl", "-MNet::Statsd", "-e", "1")
	case "php":
		cmd = exec.Command(lookPath(t, "php", "php-cli"), write("recipe.php"))
	case "java":
		cmd = exec.Command(lookPath(t, "java", "default-jdk-headless"), "-cp", "/usr/share/java/*", write("Recipe.java"))
		r.needs(t, "libdropwizard-metrics-java", "test", "-e", "/usr/share/java/metrics-graphite.jar")
	case "collectd":
		r.text = fmt.Sprintf("BaseDir %q\nPIDFile %q\n", dir, filepath.Join(dir, "pid")) + r.text
		cmd = exec.Command(lookPath(t, "collectd", "collectd-core"), "-f", "-C", write("collectd.conf"))
	case "icinga":
		r.text = icinga2Host + r.text
		// Its children have sessions of their own, and go with the namespace.
		cmd = exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", lookPath(t, "icinga2", "icinga2-bin"), "daemon", "-c", write("icinga2.conf"), "-DRunAsUser=root", "-DRunAsGroup=root")
		for _, name := range []string{"Data", "Cache", "InitRun", "Log", "Spool"} {
			cmd.Args = append(cmd.Args, fmt.Sprintf("-D%sDir=%s", name, dir))
		}
	default:
		t.Fatalf("no program for %s", r.language)
	}
	return cmd
}

// icinga2Host is a host that checks itself, every second.
const icinga2Host = `include <itl>
const NodeName = "checked"
object Endpoint NodeName { }
object Zone "main" { endpoints = [ NodeName ] }
object CheckerComponent "checker" { }
object Host NodeName { check_command = "dummy" }
object Service "load" {
  host_name = NodeName
  check_command = "dummy"
  vars.dummy_text = "fine|load1=0.5"
  check_interval = 1s
}
`

// needs skips the test where a command fails.
func (r recipe) needs(t *testing.T, pkg string, command ...string) {
	t.Helper()
	if exec.Command(command[0], command[1:]...).Run() != nil {
		missing(t, fmt.Sprintf("%s is not there (Debian's %s)", r.name, pkg))
	}
}
