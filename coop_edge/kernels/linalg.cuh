// Small dense linear algebra for one thread: fixed sizes, row-major arrays, no allocation, no host headers.
//
// `T` is float or double. Nothing here knows about cameras or poses.
#pragma once

#define COOP_HD __host__ __device__ inline
// For large functions that few threads run: inlining them doubles the time NVRTC takes on the user's device.
#define COOP_HD_CALL __host__ __device__ __noinline__

namespace coop {

// Constants, not the results of invalid operations: a compiler may assume that those do not occur.
COOP_HD double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }  // quiet
COOP_HD double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }

template <typename T>
COOP_HD T dot3(const T* a, const T* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

template <typename T>
COOP_HD void cross3(const T* a, const T* b, T* out) {
    const T x = a[1] * b[2] - a[2] * b[1];
    const T y = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
    out[0] = x;
    out[1] = y;
}

// out = A x, 3x3.
template <typename T>
COOP_HD void multiply33_3(const T* A, const T* x, T* out) {
    const T a = dot3(A, x), b = dot3(A + 3, x), c = dot3(A + 6, x);
    out[0] = a;
    out[1] = b;
    out[2] = c;
}

// out = A B, 3x3; out may be neither A nor B.
template <typename T>
COOP_HD void multiply33_33(const T* A, const T* B, T* out) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            out[3 * i + j] = A[3 * i] * B[j] + A[3 * i + 1] * B[3 + j] + A[3 * i + 2] * B[6 + j];
}

// Position of (i, j), i <= j, in the row-major upper triangle of a symmetric N x N matrix.
template <int N>
COOP_HD constexpr int upper(int i, int j) {
    return i * N - i * (i - 1) / 2 + (j - i);
}

// The rotation (c, s) that annihilates the off-diagonal `apq` of [app apq; apq aqq] (Golub & Van Loan, section 8.5.2).
template <typename T>
COOP_HD void jacobi_rotation(T app, T aqq, T apq, T* c, T* s) {
    *c = T(1);
    *s = T(0);
    if (apq == T(0)) return;
    const T theta = (aqq - app) / (T(2) * apq);
    // For huge |theta|, theta^2 overflows to infinity and t becomes 0: the element is negligible, as it should be.
    const T t = (theta >= T(0) ? T(1) : T(-1)) / (fabs(theta) + sqrt(theta * theta + T(1)));
    *c = T(1) / sqrt(t * t + T(1));
    *s = t * *c;
}

// Eigen-decomposition of a symmetric matrix by cyclic Jacobi rotations. On return the diagonal of A holds the
// eigenvalues (unordered) and the columns of V the eigenvectors. Chosen over QR iterations for its accuracy on small
// eigenvalues (Demmel & Veselic, 1992): null spaces are what it is used for.
template <typename T, int N>
COOP_HD_CALL void jacobi_eigen(T* A, T* V, int sweeps) {
    for (int i = 0; i < N * N; ++i) V[i] = i % (N + 1) == 0 ? T(1) : T(0);
    const T epsilon = sizeof(T) == 8 ? T(1e-32) : T(1e-15);
#pragma unroll 1
    for (int sweep = 0; sweep < sweeps; ++sweep) {
        T off = T(0), diagonal = T(0);
        for (int p = 0; p < N; ++p) {
            diagonal += A[p * N + p] * A[p * N + p];
            for (int q = p + 1; q < N; ++q) off += A[p * N + q] * A[p * N + q];
        }
        if (!(off > epsilon * diagonal)) return;
#pragma unroll 1
        for (int p = 0; p < N - 1; ++p)
#pragma unroll 1
            for (int q = p + 1; q < N; ++q) {
                T c, s;
                jacobi_rotation(A[p * N + p], A[q * N + q], A[p * N + q], &c, &s);
                for (int k = 0; k < N; ++k) {
                    const T kp = A[k * N + p], kq = A[k * N + q];
                    A[k * N + p] = c * kp - s * kq;
                    A[k * N + q] = s * kp + c * kq;
                }
                for (int k = 0; k < N; ++k) {
                    const T pk = A[p * N + k], qk = A[q * N + k];
                    A[p * N + k] = c * pk - s * qk;
                    A[q * N + k] = s * pk + c * qk;
                    const T vp = V[k * N + p], vq = V[k * N + q];
                    V[k * N + p] = c * vp - s * vq;
                    V[k * N + q] = s * vp + c * vq;
                }
            }
    }
}

// Cholesky factor of a symmetric positive definite matrix, in place in the lower triangle. False if a pivot falls
// below `relative` times its own diagonal entry: the matrix is singular to working precision.
template <typename T, int N>
COOP_HD bool cholesky(T* A, T relative) {
#pragma unroll 1  // one thread's work beside the many threads' sums: registers matter more than its speed
    for (int j = 0; j < N; ++j) {
        const T original = A[j * N + j];
        T pivot = original;
        for (int k = 0; k < j; ++k) pivot -= A[j * N + k] * A[j * N + k];
        if (!(pivot > relative * original) || !(original > T(0))) return false;
        const T root = sqrt(pivot);
        A[j * N + j] = root;
#pragma unroll 1
        for (int i = j + 1; i < N; ++i) {
            T value = A[i * N + j];
            for (int k = 0; k < j; ++k) value -= A[i * N + k] * A[j * N + k];
            A[i * N + j] = value / root;
        }
    }
    return true;
}

// Solve L L^T x = b in place, L from `cholesky`.
template <typename T, int N>
COOP_HD void cholesky_solve(const T* L, T* x) {
#pragma unroll 1
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < i; ++k) x[i] -= L[i * N + k] * x[k];
        x[i] /= L[i * N + i];
    }
#pragma unroll 1
    for (int i = N - 1; i >= 0; --i) {
        for (int k = i + 1; k < N; ++k) x[i] -= L[k * N + i] * x[k];
        x[i] /= L[i * N + i];
    }
}

// Least squares A x = b by Householder QR, `rows` <= R and `columns` <= C used; A (row stride C) and b are destroyed.
// False, with x unspecified, if a column is a combination of those before it to working precision.
template <typename T, int R, int C>
COOP_HD_CALL bool least_squares(T* A, T* b, int rows, int columns, T* x) {
    T largest = T(0), diagonal[C];
#pragma unroll 1
    for (int j = 0; j < columns; ++j) {
        T norm = T(0);
        for (int i = j; i < rows; ++i) norm += A[i * C + j] * A[i * C + j];
        norm = sqrt(norm);
        largest = fmax(largest, norm);
        if (!(norm > (sizeof(T) == 8 ? T(1e-14) : T(1e-6)) * largest)) return false;
        const T head = A[j * C + j];
        diagonal[j] = head > T(0) ? -norm : norm;
        A[j * C + j] = head - diagonal[j];
        const T scale = T(1) / (norm * (norm + fabs(head)));  // 2 / |v|^2 of the reflector I - 2 v v^T / |v|^2
#pragma unroll 1
        for (int k = j + 1; k <= columns; ++k) {
            T sum = T(0);
            for (int i = j; i < rows; ++i) sum += A[i * C + j] * (k < columns ? A[i * C + k] : b[i]);
            sum *= scale;
            for (int i = j; i < rows; ++i) {
                if (k < columns)
                    A[i * C + k] -= sum * A[i * C + j];
                else
                    b[i] -= sum * A[i * C + j];
            }
        }
    }
    for (int j = columns - 1; j >= 0; --j) {
        T value = b[j];
        for (int k = j + 1; k < columns; ++k) value -= A[j * C + k] * x[k];
        x[j] = value / diagonal[j];
    }
    return true;
}

}  // namespace coop
