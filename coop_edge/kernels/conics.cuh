// Conics in the projective plane as symmetric 3x3 matrices: a pencil's line pairs, and where a line meets a conic.
// The method of coop_edge/pnp/conics.py: a line pair C = l m^T + m l^T has the adjugate -(l x m)(l x m)^T, and
// C + hat(l x m) = 2 m l^T has rank one.
#pragma once

#include "linalg.cuh"

namespace coop {

// Symmetric 3x3 (c00, c01, c02, c11, c12, c22).
template <typename T>
struct Conic {
    T c[6];
};

template <typename T>
COOP_HD Conic<T> combine(T a, const Conic<T>& A, T b, const Conic<T>& B) {
    Conic<T> out;
    for (int i = 0; i < 6; ++i) out.c[i] = a * A.c[i] + b * B.c[i];
    return out;
}

template <typename T>
COOP_HD Conic<T> cofactors(const Conic<T>& a) {
    const T* c = a.c;
    return {{c[3] * c[5] - c[4] * c[4], c[2] * c[4] - c[1] * c[5], c[1] * c[4] - c[2] * c[3],
             c[0] * c[5] - c[2] * c[2], c[1] * c[2] - c[0] * c[4], c[0] * c[3] - c[1] * c[1]}};
}

// trace(A B).
template <typename T>
COOP_HD T inner(const Conic<T>& a, const Conic<T>& b) {
    return a.c[0] * b.c[0] + a.c[3] * b.c[3] + a.c[5] * b.c[5] +
           T(2) * (a.c[1] * b.c[1] + a.c[2] * b.c[2] + a.c[4] * b.c[4]);
}

template <typename T>
COOP_HD void apply(const Conic<T>& a, const T* x, T* out) {
    out[0] = a.c[0] * x[0] + a.c[1] * x[1] + a.c[2] * x[2];
    out[1] = a.c[1] * x[0] + a.c[3] * x[1] + a.c[4] * x[2];
    out[2] = a.c[2] * x[0] + a.c[4] * x[1] + a.c[5] * x[2];
}

template <typename T>
COOP_HD T polish_cubic(T x, T b, T c, T d) {
    for (int step = 0; step < 2; ++step) {
        const T slope = (T(3) * x + T(2) * b) * x + c;
        if (slope == T(0)) break;
        x -= (((x + b) * x + c) * x + d) / slope;
    }
    return x;
}

// Real roots of x^3 + b x^2 + c x + d: how many (1 or 3), and which.
template <typename T>
COOP_HD int cubic_roots(T b, T c, T d, T* x) {
    const T shift = b / T(3);
    const T third = (c - b * shift) / T(3);
    const T half = T(0.5) * (d + shift * (T(2) * shift * shift - c));
    const T discriminant = half * half + third * third * third;
    if (discriminant > T(0)) {
        // The sum of two cube roots without cancellation: the larger, and -third over it.
        T u = cbrt(fabs(half) + sqrt(discriminant));
        u = half > T(0) ? -u : u;
        x[0] = polish_cubic((u != T(0) ? u - third / u : T(0)) - shift, b, c, d);
        return 1;
    }
    const T m = sqrt(fmax(-third, T(0)));
    if (m == T(0)) {
        x[0] = -shift;
        return 1;
    }
    const T angle = acos(fmin(T(1), fmax(T(-1), -half / (m * m * m)))) / T(3);
    for (int i = 0; i < 3; ++i) {
        const T turn = T(i) * T(2.0943951023931953);
        x[i] = polish_cubic(T(2) * m * cos(angle + turn) - shift, b, c, d);
    }
    return 3;
}

// The most clearly real line pair of the pencil of D1 and D2: its matrix, its vertex (scaled such that C + hat(vertex)
// has rank one) and a conic of the pencil to meet it with. False if there is none.
template <typename T>
COOP_HD bool line_pair(const Conic<T>& D1, const Conic<T>& D2, Conic<T>* C, T* vertex, Conic<T>* other) {
    const Conic<T> k1 = cofactors(D1), k2 = cofactors(D2);
    T d0 = D1.c[0] * k1.c[0] + D1.c[1] * k1.c[1] + D1.c[2] * k1.c[2];
    T d3 = D2.c[0] * k2.c[0] + D2.c[1] * k2.c[1] + D2.c[2] * k2.c[2];
    T d1 = inner(k1, D2), d2 = inner(k2, D1);
    const bool swap = fabs(d0) > fabs(d3);  // the larger leading coefficient: g D1 + D2 instead
    const Conic<T>& A = swap ? D2 : D1;
    const Conic<T>& B = swap ? D1 : D2;
    if (swap) {
        T hold = d0;
        d0 = d3;
        d3 = hold;
        hold = d1;
        d1 = d2;
        d2 = hold;
    }
    if (d3 == T(0)) return false;
    T g[3];
    const int roots = cubic_roots(d2 / d3, d1 / d3, d0 / d3, g);
    T best = T(0);
    for (int i = 0; i < roots; ++i) {
        const T s = T(1) / (T(1) + fabs(g[i]));
        const Conic<T> candidate = combine(s, A, s * g[i], B);
        const Conic<T> k = cofactors(candidate);
        const T largest = fmax(fmax(-k.c[0], -k.c[3]), -k.c[5]);
        if (!(largest > best)) continue;
        best = largest;
        *C = candidate;
        *other = fabs(g[i]) < T(1) ? B : A;  // the pencil's end that is farther from C
        const T r = T(-1) / sqrt(largest);
        const bool first = largest == -k.c[0], second = !first && largest == -k.c[3];
        vertex[0] = r * (first ? k.c[0] : second ? k.c[1] : k.c[2]);
        vertex[1] = r * (first ? k.c[1] : second ? k.c[3] : k.c[4]);
        vertex[2] = r * (first ? k.c[2] : second ? k.c[4] : k.c[5]);
    }
    return best > T(0);
}

// One of the two lines of the pair: the largest row (side 0) or column (side 1) of C + hat(vertex).
template <typename T>
COOP_HD void split_line(const Conic<T>& C, const T* vertex, int side, T* line) {
    const T sign = side == 0 ? T(1) : T(-1);
    const T x = sign * vertex[0], y = sign * vertex[1], z = sign * vertex[2];
    const T rows[3][3] = {{C.c[0], C.c[1] - z, C.c[2] + y},
                          {C.c[1] + z, C.c[3], C.c[4] - x},
                          {C.c[2] - y, C.c[4] + x, C.c[5]}};
    T best = T(-1);
    for (int i = 0; i < 3; ++i) {
        const T size = fabs(rows[i][0]) + fabs(rows[i][1]) + fabs(rows[i][2]);
        if (!(size > best)) continue;
        best = size;
        for (int j = 0; j < 3; ++j) line[j] = rows[i][j];
    }
}

// The two points, up to scale, where a line meets a conic: false if they are not real.
template <typename T>
COOP_HD bool meet(const T* line, const Conic<T>& D, T* first, T* second) {
    // Two points e, f that span the line, by solving for its largest coordinate.
    const int k = fabs(line[0]) >= fabs(line[1]) ? (fabs(line[0]) >= fabs(line[2]) ? 0 : 2)
                                                 : (fabs(line[1]) >= fabs(line[2]) ? 1 : 2);
    if (line[k] == T(0)) return false;
    const int i = k == 0 ? 1 : 0, j = k == 2 ? 1 : 2;
    T e[3], f[3], De[3], Df[3];
    e[i] = T(1);
    e[j] = T(0);
    e[k] = -line[i] / line[k];
    f[i] = T(0);
    f[j] = T(1);
    f[k] = -line[j] / line[k];
    apply(D, e, De);
    apply(D, f, Df);
    const T a = dot3(De, e), b = dot3(De, f), c = dot3(Df, f);
    // a s^2 + 2 b s r + c r^2 = 0 for the point s e + r f.
    T discriminant = b * b - a * c;
    // A double root that rounding made complex; the Newton steps decide whether it is one.
    const T slack = (sizeof(T) == 8 ? T(1e-9) : T(1e-5)) * (b * b + fabs(a * c));
    if (!(discriminant >= -slack)) return false;
    discriminant = fmax(discriminant, T(0));
    const T q = -(b + (b < T(0) ? -sqrt(discriminant) : sqrt(discriminant)));
    for (int n = 0; n < 3; ++n) {
        first[n] = q * e[n] + a * f[n];
        second[n] = c * e[n] + q * f[n];
    }
    return true;
}

}  // namespace coop
