package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// The documents must agree with the program: what they name must exist, and what exists must be
// named.

const root = "../.."

func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// metricNames returns the names of all metrics of the daemon.
func metricNames(t *testing.T) []string {
	t.Helper()
	cfg, err := config.Parse("", []byte(document(t, "config.example.yaml")), config.Default(), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	d, err := newDaemon(cfg, dir, &ui{out: io.Discard, err: io.Discard, log: slog.New(slog.DiscardHandler)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.client.Close()
	described := make(chan *prometheus.Desc, 1000)
	d.registry.Describe(described)
	close(described)
	var names []string
	for desc := range described {
		name := regexp.MustCompile(`fqName: "([^"]*)"`).FindStringSubmatch(desc.String())[1]
		if strings.HasPrefix(name, "prefixproxy_") {
			names = append(names, name)
		}
	}
	if len(names) < 15 {
		t.Fatalf("only %d metrics: %v", len(names), names)
	}
	return names
}

func TestDocumentsNameMetrics(t *testing.T) {
	names := metricNames(t)
	operations := document(t, "docs/OPERATIONS.md")
	for _, name := range names {
		if !strings.Contains(operations, "`"+name+"`") {
			t.Errorf("docs/OPERATIONS.md does not tell of %s", name)
		}
	}
	for _, file := range []string{"README.md", "docs/OPERATIONS.md", "docs/LINES.md", "docs/ARCHITECTURE.md"} {
		for _, name := range regexp.MustCompile(`\bprefixproxy_[a-z_]+`).FindAllString(document(t, file), -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s tells of %s, which is no metric", file, name)
			}
		}
	}
}

// Alerts and dashboards use metrics that exist.
func TestDeployNamesMetrics(t *testing.T) {
	names := metricNames(t)
	paths := map[string]bool{} // as StatsD has them
	for _, name := range names {
		paths[strings.TrimSuffix(strings.TrimPrefix(name, "prefixproxy_"), "_total")] = true
	}
	for _, file := range []string{"deploy/prometheus/alerts.yaml", "deploy/prometheus/alerts_test.yaml", "deploy/grafana/prometheus.json"} {
		for _, name := range regexp.MustCompile(`\bprefixproxy_[a-z_]+`).FindAllString(document(t, file), -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s asks for %s, which is no metric", file, name)
			}
		}
	}
	found := regexp.MustCompile(`\.prefixproxy\.([a-z_]+)`).FindAllStringSubmatch(document(t, "deploy/grafana/graphite.json"), -1)
	for _, m := range found {
		if !paths[m[1]] {
			t.Errorf("deploy/grafana/graphite.json asks for %s, which is not sent", m[0])
		}
	}
	if len(found) < 10 {
		t.Errorf("found only %d paths", len(found))
	}
}

func TestDocumentsNameReasons(t *testing.T) {
	lines := document(t, "docs/LINES.md")
	for r := range line.NumResults {
		if why := line.Result(r).Reason(); why != "" && !strings.Contains(lines, "`"+why+"`") {
			t.Errorf("docs/LINES.md does not tell of reason %s", why)
		}
	}
	for _, why := range strings.Fields("unterminated truncated framing no_name other_tenure too_old claim_lost queue_full spool_full send_error shutdown no_point series_full") {
		if !strings.Contains(lines, "`"+why+"`") {
			t.Errorf("docs/LINES.md does not tell of reason %s", why)
		}
	}
}

// The README's commands and flags exist.
func TestReadmeCommands(t *testing.T) {
	var line commandLine
	parser, err := kong.New(&line)
	if err != nil {
		t.Fatal(err)
	}
	readme := document(t, "README.md")
	commands := map[string]*kong.Node{}
	for _, c := range parser.Model.Children {
		commands[c.Name] = c
		if !strings.Contains(readme, "prefixproxy "+c.Name) && c.Name != "version" && !c.Hidden {
			t.Errorf("the README does not show %s", c.Name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)(?:^|^    |\$ |\| |\x60)prefixproxy ([a-z]+)((?: +--[a-z-]+(?: [^ \n-][^ \n]*)?)*)`).FindAllStringSubmatch(readme, -1) {
		c, ok := commands[m[1]]
		if !ok {
			t.Errorf("the README calls %q: no such command", m[0])
			continue
		}
		for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(m[2], -1) {
			if !hasFlag(c, flag[1]) {
				t.Errorf("the README calls %q: no flag --%s", m[0], flag[1])
			}
		}
	}
}

func hasFlag(c *kong.Node, name string) bool {
	for _, group := range c.AllFlags(false) {
		for _, f := range group {
			if f.Name == name {
				return true
			}
		}
	}
	return false
}

// The README's examples of configuration are valid.
func TestReadmeConfiguration(t *testing.T) {
	defaults, err := config.Parse("", []byte(document(t, "config.example.yaml")), config.Default(), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	pieces := 0
	for _, block := range regexp.MustCompile("(?m)^```yaml\n((?s:.*?))```$").FindAllStringSubmatch(document(t, "README.md"), -1) {
		pieces++
		lookupEnv := func(string) (string, bool) { return t.TempDir(), true }
		text := regexp.MustCompile(`(?m)^  (username|password_file): .*\n`).ReplaceAllString(block[1], "") // of a file that is not here
		if _, err := config.Parse("README.md", []byte(text), defaults, lookupEnv); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
	if pieces < 4 {
		t.Errorf("found only %d pieces of configuration", pieces)
	}
}

// The README has the rate that was measured last.
func TestReadmeRate(t *testing.T) {
	measured := regexp.MustCompile(`highest rate at which nothing was lost \| ([0-9,]+) lines/s`).FindStringSubmatch(document(t, "docs/PERFORMANCE.md"))
	if measured == nil {
		t.Fatal("docs/PERFORMANCE.md has no rate")
	}
	if said := measured[1] + " StatsD datagrams a second"; !strings.Contains(document(t, "README.md"), said) {
		t.Errorf("README.md does not say %q, which docs/PERFORMANCE.md has", said)
	}
}

// What ARCHITECTURE.md has in backquotes is in the code.
func TestArchitectureNames(t *testing.T) {
	known := identifiers(t)
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(document(t, "docs/ARCHITECTURE.md"), -1) {
		word := strings.TrimPrefix(m[1], "*")
		if !regexp.MustCompile(`^[a-zA-Z]+(\.[a-zA-Z]+)*$`).MatchString(word) {
			continue // not an identifier
		}
		for part := range strings.SplitSeq(word, ".") {
			if !known[part] {
				t.Errorf("docs/ARCHITECTURE.md names %s: there is no %s", m[1], part)
			}
		}
	}
}

// ARCHITECTURE.md has every room, and no other.
func TestArchitectureRooms(t *testing.T) {
	text := document(t, "docs/ARCHITECTURE.md")
	rooms, err := os.ReadDir(filepath.Join(root, "internal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range rooms {
		if !strings.Contains(text, "`internal/"+room.Name()+"`") {
			t.Errorf("docs/ARCHITECTURE.md lacks internal/%s", room.Name())
		}
	}
	for _, m := range regexp.MustCompile("`(internal/[a-z]+)`").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("docs/ARCHITECTURE.md names a room that is gone: %v", err)
		}
	}
}

// identifiers returns all that Go files declare or use, and the names of files,
// folders and configuration keys.
func identifiers(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" && d.IsDir() { // a file in a work tree
			return filepath.SkipDir
		}
		for part := range strings.SplitSeq(d.Name(), ".") {
			known[part] = true
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				known[id.Name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range regexp.MustCompile(`[a-z_]+`).FindAllString(document(t, "config.example.yaml"), -1) {
		known[key] = true
	}
	return known
}
