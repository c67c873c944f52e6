package conf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxFile bounds a file that the configuration names, in bytes: certificates, a password.
const maxFile = 1 << 20

// ReadFile returns the contents of a file that the configuration names, and its info. Anything but a
// regular file, like a FIFO or a device, is an error, and is not waited for; so is too long a file.
func ReadFile(path string) (text []byte, info fs.FileInfo, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	text, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %v", path, Bytes(maxFile))
	}
	return text, info, err
}

// ReadTLS returns the TLS configuration that such files describe: the authorities in ca ("": the
// system's) and, if cert and key are given, our own certificate.
func ReadTLS(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, _, err := ReadFile(ca)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s contains no PEM certificate", ca)
		}
	}
	if cert == "" {
		return c, nil
	}
	certPEM, _, err := ReadFile(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, _, err := ReadFile(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", cert, key, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
