package proxy

import (
	"os"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// Tests of what has to be done within a time, like the drain, run alone.
func TestMain(m *testing.M) { os.Exit(sidebyside.M{M: m, Most: 24}.Run()) }
