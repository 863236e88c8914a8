package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const certificateDays = 3650

// front is the door of the vSphere API: TLS, and the part of vCenter that answers while the rest of it starts again.
type front struct {
	v        *vcenter
	listener net.Listener
	server   *http.Server
	cert     tls.Certificate
	path     string

	mutex sync.Mutex
	mode  string
	open  map[net.Conn]bool
}

const (
	serving  = "serving"
	refusing = "refusing" // connections break
	starting = "starting" // 503, as vCenter's proxy says while vpxd starts
)

func newFront(listener net.Listener, v *vcenter, state string) (*front, error) {
	f := &front{v: v, listener: listener, mode: serving, open: map[net.Conn]bool{}, path: filepath.Join(state, "vcenter.pem")}
	var err error
	if f.cert, err = loadCertificate(f.path); err != nil {
		return nil, err
	}
	f.server = &http.Server{
		Handler:   http.HandlerFunc(f.answer),
		ConnState: f.follow,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	return f, nil
}

func (f *front) serve() {
	secure := tls.NewListener(f.listener, &tls.Config{Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS12})
	go func() { _ = f.server.Serve(secure) }()
}

func (f *front) close() { _ = f.server.Close() }

func (f *front) describe() map[string]any {
	_, port, _ := net.SplitHostPort(f.listener.Addr().String())
	der := f.cert.Certificate[0]
	return map[string]any{
		"url":             "https://127.0.0.1:" + port + "/sdk",
		"thumbprint":      colons(fmt.Sprintf("%X", sha256.Sum256(der))),
		"thumbprint_sha1": colons(fmt.Sprintf("%X", sha1.Sum(der))),
		"certificate":     f.path,
	}
}

func colons(text string) string {
	pairs := make([]string, 0, len(text)/2)
	for ; text != ""; text = text[2:] {
		pairs = append(pairs, text[:2])
	}
	return strings.Join(pairs, ":")
}

func (f *front) answer(w http.ResponseWriter, r *http.Request) {
	switch f.now() {
	case refusing:
		panic(http.ErrAbortHandler)
	case starting:
		http.Error(w, "Service Unavailable", http.StatusServiceUnavailable)
	default:
		if !f.v.vsan.answer(w, r) {
			f.v.service.ServeMux.ServeHTTP(&newcomer{ResponseWriter: w, v: f.v, request: r}, r)
		}
	}
}

func (f *front) now() string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.mode
}

func (f *front) follow(conn net.Conn, state http.ConnState) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	switch state {
	case http.StateNew:
		f.open[conn] = true
		if f.mode == refusing {
			_ = conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		delete(f.open, conn)
	}
}

// restart vCenter, not its hosts: connections break, sessions and tasks are forgotten, VMs and guests live on.
func (f *front) restart(down time.Duration) {
	f.set(refusing)
	f.mutex.Lock()
	for conn := range f.open {
		_ = conn.Close()
	}
	f.mutex.Unlock()
	f.v.endSessions()
	f.v.tasks.forget()
	time.Sleep(down / 2)
	f.set(starting)
	time.Sleep(down - down/2)
	f.set(serving)
}

func (f *front) set(mode string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.mode = mode
}

// loadCertificate reads certificate and key, or makes them: the same vCenter keeps its thumbprint.
func loadCertificate(path string) (tls.Certificate, error) {
	key := path + ".key"
	if _, err := os.Stat(path); err != nil {
		if err := makeCertificate(path, key); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.LoadX509KeyPair(path, key)
}

func makeCertificate(path, keyPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "vcenter", Organization: []string{"forkyard lab"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(0, 0, certificateDays),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	if err = os.WriteFile(keyPath, private, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
