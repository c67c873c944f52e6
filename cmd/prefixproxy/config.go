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
		return config.Config{}, usageError(errors.New("the name of the configuration file is empty"), "--config FILE, or $PREFIXPROXY_CONFIG")
	}
	text, err := readConfig(file)
	if err == nil {
		return config.Parse(file, text, defaults, lookupEnv)
	}
	hint := "create that file (config.example.yaml explains every key), or name another one: --config FILE"
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = unit.Unreadable(file)
	case errors.Is(err, syscall.EISDIR):
		hint = "name a file in that directory: --config " + conf.ShellQuote(filepath.Join(file, "config.yaml"))
	}
	return config.Config{}, failure{err, hint, exitConfig}
}

// lookupEnv is os.LookupEnv, except that it always knows where systemd keeps the credentials of the
// service: a person who may read them there can use the service's own file.
func lookupEnv(name string) (value string, ok bool) {
	if value, ok = os.LookupEnv(name); !ok && name == unit.CredentialsVariable {
		return unit.Credentials, true
	}
	return value, ok
}

// configTime bounds how long a configuration that is a pipe is waited for: shutdown waits for a
// reload.
const configTime = 5 * time.Second

// readConfig reads a file, but no more than is already too much for a configuration.
func readConfig(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	f.SetReadDeadline(time.Now().Add(configTime)) // fails for a plain file, which needs none
	return io.ReadAll(io.LimitReader(f, config.MaxSize+1))
}
