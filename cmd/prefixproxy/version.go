package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the release, set by -ldflags "-X main.version=v1.2.3".
var version string

type versionCmd struct{}

// Run prints the same as --version.
func (versionCmd) Run(ui *ui) error {
	_, err := fmt.Fprintln(ui.out, buildLine())
	return err
}

// buildLine returns version, commit and platform.
func buildLine() string {
	return fmt.Sprintf("prefixproxy %s (%s, %s %s/%s)", buildVersion(), buildCommit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
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
