package main

import (
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/soap"
)

// newcomer is the answer to a call in no session that is known: vCenter gives it the cookie of one that nobody has
// logged in to. The simulator gives cookies only to those who log in.
type newcomer struct {
	http.ResponseWriter
	v       *vcenter
	request *http.Request
}

func (n *newcomer) WriteHeader(status int) {
	if n.Header().Get("Set-Cookie") == "" && !n.isKnown() {
		http.SetCookie(n, &http.Cookie{Name: soap.SessionCookieName, Value: uuid.NewString(), HttpOnly: true})
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *newcomer) isKnown() bool {
	cookie, err := n.request.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	n.v.mutex.Lock()
	defer n.v.mutex.Unlock()
	return n.v.sessions[strings.Trim(cookie.Value, `"`)] != nil
}
