package etcd

import (
	"os"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

func TestMain(m *testing.M) { os.Exit(sidebyside.M{M: m, Most: 24}.Run()) }
