package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The next connection uses a certificate that was rotated on disk.
func TestRotatedCertificate(t *testing.T) {
	dir := t.TempDir()
	files := TLS{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	server := selfSigned(t, files, 1)
	for serial := int64(1); serial <= 2; serial++ {
		config, err := files.config()
		if err != nil {
			t.Fatal(err)
		}
		config.ServerName = "etcd"
		if got := serialSeen(t, config, server); got != serial {
			t.Errorf("the server sees the certificate of serial number %d, want %d", got, serial)
		}
		selfSigned(t, TLS{CA: filepath.Join(dir, "other"), Cert: files.Cert, Key: files.Key}, serial+1)
	}
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	if _, err := files.config(); err == nil {
		t.Error("configuration without a certificate file: got no error")
	}
}

// selfSigned writes a certificate of that serial number to files, and returns
// it: it is its own authority.
func selfSigned(t *testing.T, files TLS, serial int64) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: "etcd"},
		DNSNames:              []string{"etcd"},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for path, data := range map[string][]byte{files.CA: cert, files.Cert: cert, files.Key: secret} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, secret)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func serverConfig(own tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert}
}

// serialSeen connects with config, and returns the serial number of the
// certificate that the server sees.
func serialSeen(t *testing.T, config *tls.Config, server tls.Certificate) int64 {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	seen := make(chan error, 1)
	conn := tls.Server(theirs, serverConfig(server))
	go func() { seen <- conn.Handshake() }()
	if err := tls.Client(ours, config).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-seen; err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
