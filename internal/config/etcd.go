package config

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/unit"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// Etcd says how to reach etcd.
type Etcd struct {
	// Endpoints are the members of the cluster, each as http://host:port, https://host:port or
	// host:port; all are tried. No default: hosts that don't share an etcd would all be Denali.
	Endpoints []string `yaml:"endpoints"`

	// Username is the etcd user; default "", without authentication.
	Username string `yaml:"username"`

	// PasswordFile contains only the user's password; an end of line is cut off. The file is refused
	// if others may read it.
	PasswordFile string `yaml:"password_file"`

	TLS TLS `yaml:"tls"`

	Unused bool `yaml:"-"` // dev starts its own etcd
}

// TLS names PEM files. All are optional: without them, https:// endpoints are checked against the
// system's authorities.
type TLS struct {
	CA   string `yaml:"ca"`   // the authorities that may have signed the servers' certificates
	Cert string `yaml:"cert"` // our own certificate, for a cluster that asks for one
	Key  string `yaml:"key"`  // the key of Cert
}

// Problems returns all that is wrong with the configuration. It reads the files, but does not use the
// network.
func (c Etcd) Problems() conf.Problems {
	var ps conf.Problems
	if c.Unused {
		return ps
	}
	c.checkEndpoints(&ps)
	switch {
	case strings.Contains(c.Username, ":"): // as in etcdctl --user
		ps.Addf("etcd.username", "username: root, and only the password in a file: password_file: /etc/prefixproxy/etcd-password", "a user name contains no colon")
	case c.Username != "" && c.PasswordFile == "":
		ps.Addf("etcd.password_file", "password_file: /etc/prefixproxy/etcd-password", "there is a username, but no password_file")
	case c.Username == "" && c.PasswordFile != "":
		ps.Addf("etcd.username", "username: prefixproxy", "there is a password_file, but no username")
	}
	if _, err := c.password(); err != nil {
		ps.Addf("etcd.password_file", c.passwordHint(err), "%v", fileError(err))
	}
	c.TLS.check(&ps)
	return ps
}

// fileError returns err, but without a path that is not absolute: somebody may have written the
// password there.
func fileError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok && !filepath.IsAbs(path.Path) {
		return path.Err
	}
	return err
}

// fileHint returns hint, unless the file is one that we may not read.
func fileHint(err error, hint string) string {
	if at, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrPermission) {
		return unit.Unreadable(at.Path)
	}
	return hint
}

// passwordHint returns how to mend a password file that can't be used.
func (c Etcd) passwordHint(err error) string {
	switch {
	case strings.HasPrefix(c.PasswordFile, unit.Credentials) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && unit.IsOurs()):
		return "systemd creates it while the service runs (systemctl start prefixproxy) if the unit says so: systemctl edit prefixproxy: [Service] LoadCredential=" + filepath.Base(c.PasswordFile) + ":/path/of/the/secret"
	case errors.Is(err, fs.ErrPermission):
		return unit.Unreadable(c.PasswordFile)
	case errors.Is(err, errOthersMayRead) && isRoots(c.PasswordFile):
		return unit.LetRead(c.PasswordFile)
	case errors.Is(err, errOthersMayRead):
		return "chmod 0600 " + conf.ShellQuote(c.PasswordFile)
	}
	return "create a file that contains only the password: install -m 0640 -g prefixproxy /dev/stdin /etc/prefixproxy/etcd-password"
}

func isRoots(file string) bool {
	info, err := os.Stat(file)
	return err == nil && fromRoot(info)
}

func (c Etcd) checkEndpoints(ps *conf.Problems) {
	if len(c.Endpoints) == 0 {
		ps.Addf("etcd.endpoints", "etcd: {endpoints: [http://127.0.0.1:2379]}; to try it without one: prefixproxy dev", "no etcd endpoint is given, and there is no default: hosts that don't share an etcd would all take the same name")
	}
	first := ""
	for i, endpoint := range c.Endpoints {
		path := fmt.Sprintf("etcd.endpoints[%d]", i)
		u, err := etcd.ParseEndpoint(endpoint)
		if err != nil {
			ps.Addf(path, "write each endpoint separately, with its port: [http://etcd1:2379, http://etcd2:2379]; an IPv6 address in brackets", "%v", err)
			continue
		}
		switch first = cmp.Or(first, u.Scheme); {
		case c.TLS != TLS{} && u.Scheme != "https":
			ps.Addf(path, "https://"+u.Host+", or remove etcd.tls", "there is an etcd.tls, but this endpoint is not https://")
		case u.Scheme != first:
			ps.Addf(path, "use https:// for all", "http:// and https:// endpoints are mixed")
		}
	}
}

// password returns the contents of the password file; "" if there is none.
func (c Etcd) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	text, info, err := conf.ReadFile(c.PasswordFile)
	password := strings.TrimRight(string(text), "\r\n")
	switch {
	case err != nil:
		return "", err
	case othersMayRead(info):
		return "", fmt.Errorf("%w %s (mode %04o)", errOthersMayRead, c.PasswordFile, info.Mode().Perm())
	case password == "":
		return "", fmt.Errorf("%s is empty", c.PasswordFile)
	case strings.ContainsAny(password, "\r\n"):
		return "", fmt.Errorf("%s has more than one line", c.PasswordFile)
	case strings.ContainsFunc(password, isUnseen):
		return "", fmt.Errorf("%s contains an invisible character, like a byte order mark", c.PasswordFile)
	}
	return password, nil
}

// isUnseen reports whether r is an accident of how the file was saved rather than part of a password.
func isUnseen(r rune) bool { return r == '\ufeff' || unicode.IsControl(r) }

var errOthersMayRead = errors.New("others may read")

// othersMayRead reports whether anybody but the owner may read the file. A group may, if root owns
// it: this is how systemd (LoadCredential) and Kubernetes (fsGroup) hand secrets to one service.
func othersMayRead(info os.FileInfo) bool {
	return info.Mode()&0o007 != 0 || info.Mode()&0o070 != 0 && !fromRoot(info)
}

func fromRoot(info os.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && owner.Uid == 0
}

func (c TLS) check(ps *conf.Problems) {
	if (c.Cert == "") != (c.Key == "") {
		ps.Addf("etcd.tls", "give both cert and key, or neither", "cert and key go together, and one is missing")
		return
	}
	if _, err := conf.ReadTLS(c.CA, "", ""); err != nil {
		ps.Addf("etcd.tls.ca", fileHint(err, "name a PEM file"), "%v", fileError(err))
	}
	if _, err := conf.ReadTLS("", c.Cert, c.Key); err != nil {
		ps.Addf("etcd.tls.cert", fileHint(err, "name PEM files that belong together"), "%v", fileError(err))
	}
}

// config returns the TLS configuration, according to the files as they are now.
func (c TLS) config() (*tls.Config, error) {
	config, err := conf.ReadTLS(c.CA, c.Cert, c.Key)
	if err == nil && c.Cert != "" { // send it whoever signed it: etcd says what is wrong with it
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &config.Certificates[0], nil
		}
	}
	return config, err
}

// Client returns a client that connects on demand; the caller closes it. It is no error if etcd can't
// be reached.
func (c Etcd) Client() (*etcd.Client, error) {
	return etcd.New(etcd.Config{
		Endpoints: c.Endpoints, Username: c.Username, Password: c.password, TLS: c.TLS.config, Etcdctl: c.Etcdctl(),
	})
}

// Etcdctl returns the beginning of an etcdctl command for the same etcd.
func (c Etcd) Etcdctl() string {
	command := "ETCDCTL_API=3 etcdctl --endpoints=" + conf.ShellQuote(strings.Join(c.Endpoints, ","))
	for _, flag := range []struct{ name, value string }{
		{"cacert", c.TLS.CA}, {"cert", c.TLS.Cert}, {"key", c.TLS.Key}, {"user", c.Username},
	} {
		if flag.value != "" {
			command += " --" + flag.name + "=" + conf.ShellQuote(flag.value)
		}
	}
	return command
}
