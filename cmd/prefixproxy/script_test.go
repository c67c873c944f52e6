package main

import (
	"flag"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts of testdata")

func TestMain(m *testing.M) {
	time.Local = time.UTC // times are shown so; set before anything asks for the time
	testscript.Main(sidebyside.M{M: m, Most: 8}, map[string]func(){"prefixproxy": main})
}

// The scripts are also a manual of the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}
