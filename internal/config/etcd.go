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

// Etcd says how etcd is reached.
type Etcd struct {
	// Endpoints are the members of the cluster, each as http://host:port,
	// https://host:port or host:port; all are tried. No default: hosts that
	// don't ask the same etcd would all be Denali.
	Endpoints []string `yaml:"endpoints"`

	// Username is the etcd user; default "", without authentication.
	Username string `yaml:"username"`

	// PasswordFile holds the user's password, alone; a line's end is cut off.
	// It is refused when others may read it.
	PasswordFile string `yaml:"password_file"`

	TLS TLS `yaml:"tls"`

	Unused bool `yaml:"-"` // dev has an etcd of its own
}

// TLS names PEM files. All are optional: without them, https:// endpoints
// are checked against the system's authorities.
type TLS struct {
	CA   string `yaml:"ca"`   // the authorities that may have signed the servers' certificates
	Cert string `yaml:"cert"` // our own certificate, for a cluster that asks for one
	Key  string `yaml:"key"`  // the key of Cert
}

// Problems returns what is wrong with the configuration, all of it. It reads
// the files, and asks nothing of the network.
func (c Etcd) Problems() conf.Problems {
	var ps conf.Problems
	if c.Unused {
		return ps
	}
	c.checkEndpoints(&ps)
	switch {
	case strings.Contains(c.Username, ":"): // as etcdctl --user has it
		ps.Addf("etcd.username", "username: root, and the password alone in a file: password_file: /etc/prefixproxy/etcd-password", "a user name has no colon")
	case c.Username != "" && c.PasswordFile == "":
		ps.Addf("etcd.password_file", "password_file: /etc/prefixproxy/etcd-password", "username is given, and no password_file")
	case c.Username == "" && c.PasswordFile != "":
		ps.Addf("etcd.username", "username: prefixproxy", "password_file is given, and no username")
	}
	if _, err := c.password(); err != nil {
		ps.Addf("etcd.password_file", c.passwordHint(err), "%v", fileError(err))
	}
	c.TLS.check(&ps)
	return ps
}

// fileError says what is wrong with a file, and which it is if that is a path: a password may
// stand in its place.
func fileError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok && !filepath.IsAbs(path.Path) {
		return path.Err
	}
	return err
}

// fileHint is hint, but for a file that we may not read.
func fileHint(err error, hint string) string {
	if at, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrPermission) {
		return unit.Unreadable(at.Path)
	}
	return hint
}

// passwordHint is how to mend a password file that cannot be read.
func (c Etcd) passwordHint(err error) string {
	switch {
	case strings.HasPrefix(c.PasswordFile, unit.Credentials) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && unit.IsOurs()):
		return "systemd puts it there while the service runs (systemctl start prefixproxy), if the unit has it: systemctl edit prefixproxy: [Service] LoadCredential=" + filepath.Base(c.PasswordFile) + ":/path/of/the/secret"
	case errors.Is(err, fs.ErrPermission):
		return unit.Unreadable(c.PasswordFile)
	case errors.Is(err, errOthersMayRead) && isRoots(c.PasswordFile):
		return unit.LetRead(c.PasswordFile)
	case errors.Is(err, errOthersMayRead):
		return "chmod 0600 " + conf.ShellQuote(c.PasswordFile)
	}
	return "a file that holds the password alone: install -m 0640 -g prefixproxy /dev/stdin /etc/prefixproxy/etcd-password"
}

func isRoots(file string) bool {
	info, err := os.Stat(file)
	return err == nil && fromRoot(info)
}

func (c Etcd) checkEndpoints(ps *conf.Problems) {
	if len(c.Endpoints) == 0 {
		ps.Addf("etcd.endpoints", "etcd: {endpoints: [http://127.0.0.1:2379]}; to try it without one: prefixproxy dev", "no etcd endpoint, and there is no default: hosts that don't share one would all take the same name")
	}
	first := ""
	for i, endpoint := range c.Endpoints {
		path := fmt.Sprintf("etcd.endpoints[%d]", i)
		u, err := etcd.ParseEndpoint(endpoint)
		if err != nil {
			ps.Addf(path, "write each by itself, with its port: [http://etcd1:2379, http://etcd2:2379]; an IPv6 address in brackets", "%v", err)
			continue
		}
		switch first = cmp.Or(first, u.Scheme); {
		case c.TLS != TLS{} && u.Scheme != "https":
			ps.Addf(path, "https://"+u.Host+", or remove etcd.tls", "etcd.tls is given, and this endpoint is not https://")
		case u.Scheme != first:
			ps.Addf(path, "use https:// for all", "http:// and https:// endpoints are mixed")
		}
	}
}

// password reads the password file; "" if there is none.
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
		return "", fmt.Errorf("%s holds a character that cannot be seen, as a byte order mark", c.PasswordFile)
	}
	return password, nil
}

// isUnseen says whether r comes from how a file was saved, and not from who chose a password.
func isUnseen(r rune) bool { return r == '\ufeff' || unicode.IsControl(r) }

var errOthersMayRead = errors.New("others may read")

// othersMayRead says whether somebody else than the owner may read the file. A
// group may if the file is root's: this is how systemd (LoadCredential) and
// Kubernetes (fsGroup) hand secrets to one service.
func othersMayRead(info os.FileInfo) bool {
	return info.Mode()&0o007 != 0 || info.Mode()&0o070 != 0 && !fromRoot(info)
}

func fromRoot(info os.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && owner.Uid == 0
}

func (c TLS) check(ps *conf.Problems) {
	if (c.Cert == "") != (c.Key == "") {
		ps.Addf("etcd.tls", "give both or none", "a certificate and its key go together, and one is missing")
		return
	}
	if _, err := conf.ReadTLS(c.CA, "", ""); err != nil {
		ps.Addf("etcd.tls.ca", fileHint(err, "name a PEM file"), "%v", fileError(err))
	}
	if _, err := conf.ReadTLS("", c.Cert, c.Key); err != nil {
		ps.Addf("etcd.tls.cert", fileHint(err, "name PEM files that belong together"), "%v", fileError(err))
	}
}

// config returns what a connection needs, by the files as they are now.
func (c TLS) config() (*tls.Config, error) {
	config, err := conf.ReadTLS(c.CA, c.Cert, c.Key)
	if err == nil && c.Cert != "" { // etcd gets it whoever signed it, and says what is wrong with it
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &config.Certificates[0], nil
		}
	}
	return config, err
}

// Client returns a client that connects on demand; the caller closes it. It is
// not an error that etcd cannot be reached.
func (c Etcd) Client() (*etcd.Client, error) {
	return etcd.New(etcd.Config{
		Endpoints: c.Endpoints, Username: c.Username, Password: c.password, TLS: c.TLS.config, Etcdctl: c.Etcdctl(),
	})
}

// Etcdctl returns how a person asks the same etcd.
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
