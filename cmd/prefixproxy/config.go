package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/unit"
)

// ProvideConfig returns the configuration. kong gives it to each Run that takes one.
func (c configFlag) ProvideConfig() (config.Config, error) {
	return loadConfig(c.Config, config.Default())
}

// loadConfig reads the YAML file over the defaults and checks the whole. Its
// error is a config.Error when the file can be read.
func loadConfig(file string, defaults config.Config) (config.Config, error) {
	if file == "" {
		return config.Config{}, usageError(errors.New("no configuration file is named"), "--config FILE, or $PREFIXPROXY_CONFIG")
	}
	text, err := readConfig(file)
	if err == nil {
		return config.Parse(file, text, defaults, lookupEnv)
	}
	hint := "write that file (config.example.yaml explains every key), or name another one: --config FILE, or $PREFIXPROXY_CONFIG"
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = unit.Unreadable(file)
	case errors.Is(err, syscall.EISDIR):
		hint = "name the file in it: --config " + conf.ShellQuote(filepath.Join(file, "config.yaml"))
	}
	return config.Config{}, failure{err, hint, exitConfig}
}

// lookupEnv is os.LookupEnv, but for where systemd keeps the credentials of the
// service: a person who may read them there can ask with the service's own file.
func lookupEnv(name string) (value string, ok bool) {
	if value, ok = os.LookupEnv(name); !ok && name == unit.CredentialsVariable {
		return unit.Credentials, true
	}
	return value, ok
}

// configTime bounds how long a pipe, in the place of the file, is waited for: the end of the
// process waits for a reload.
const configTime = 5 * time.Second

// readConfig reads a file, or what of it is too much for a configuration.
func readConfig(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	f.SetReadDeadline(time.Now().Add(configTime)) // an error: what it holds is there
	return io.ReadAll(io.LimitReader(f, config.MaxSize+1))
}
