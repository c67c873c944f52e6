package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/alecthomas/kong"
)

// version is the release, set by -ldflags "-X main.version=v1.2.3".
var version string

type versionCmd struct{}

// Run prints version, commit and platform in one line.
func (versionCmd) Run(ui *ui) error {
	_, err := fmt.Fprintf(ui.out, "prefixproxy %s (%s, %s %s/%s)\n", buildVersion(), buildCommit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// versionFlag is the same as a flag, which may be anywhere on the command line.
type versionFlag bool

// BeforeReset implements kong's hook that runs before anything else is parsed.
func (versionFlag) BeforeReset(app *kong.Kong) error {
	err := versionCmd{}.Run(&ui{out: app.Stdout})
	if err == nil {
		app.Exit(exitDone)
	}
	return err
}

// buildVersion returns the release: the linker's, or the module's.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// buildCommit returns the commit that was built, if the build saw a repository.
func buildCommit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "unknown commit"
}
