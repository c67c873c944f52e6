package testbed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The configuration in the DaemonSet is one that this program takes.
func TestDaemonSet(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(configMap(t, string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	check := Start(t, Program(t, []string{"NODE_NAME=node-1", "NODE_IP=192.0.2.7"}, "check", "--config", file))
	if code := check.ExitCode(t); code != 0 {
		t.Errorf("check ended with %d, want 0:\n%s", code, check.Stderr.Text())
	}
	if got := check.Stdout.Text(); !strings.Contains(got, "udp://192.0.2.7:8125") {
		t.Errorf("check printed\n%s\nwant the node's address in it", got)
	}
}

// configMap returns config.yaml of the ConfigMap among the documents of text.
func configMap(t testing.TB, text string) string {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object.Kind == "ConfigMap" {
			return object.Data["config.yaml"]
		}
	}
	t.Fatal("no ConfigMap")
	return ""
}
