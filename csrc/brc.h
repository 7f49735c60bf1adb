/* The C interface of the CPU kernels of the BRC and the nBRC.
 *
 * Symbols: T steps, B batch rows, I input size, H hidden size. Gates lie side by side in the order
 * c, a, candidate. Numbers are float or double as `is_double` says, all pointers below alike.
 *
 *   a_t = 1 + tanh(U_a x_t + R_a(h_{t-1}) + b_a)
 *   c_t = sigmoid(U_c x_t + R_c(h_{t-1}) + b_c)
 *   h_t = c_t h_{t-1} + (1 - c_t) tanh(U x_t + a_t h_{t-1})
 *
 * with R(h) = w * h (BRC: `memory` w_c, w_a) or h W (nBRC: `memory` W_c, W_a); the candidate may
 * have a bias as well.
 */

#ifndef BRC_H
#define BRC_H

#include <stdint.h>

#if defined(_WIN32)
#define BRC_API __declspec(dllexport)
#else
#define BRC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t steps, batch, input_size, hidden_size; /* T > 0, the others >= 0 */
  int64_t input_strides[3];                      /* of `input`, in elements; any */
  const void* input;                             /* (T, B, I); of a layer above another: unused */
  const void* h_0;                               /* (B, H), contiguous */
  const void* kernel[3];                         /* (I, H) each; rows lie kernel_stride apart */
  const void* memory[2];                         /* (H), or (H, H) with rows memory_stride apart */
  const void* bias[3];                           /* (H) each, or NULL for none */
  int64_t kernel_stride, memory_stride;          /* in elements */
  const int64_t* lengths;                        /* (B), clamped to 0..T, or NULL for all T */
  int64_t kept_steps;                            /* K <= T, the last to be taken, keep their gates */
  int32_t full_memory;                           /* 0: BRC, 1: nBRC */
  int32_t is_double;
  int32_t reverse;          /* from each row's last step to its first */
  int32_t threads;          /* at most; small problems take fewer */
  int32_t instruction_set;  /* from brc_instruction_sets */
} brc_layer;

typedef struct {
  const void* output;           /* (T, B, H), contiguous, as the forward pass left it */
  const void* gates;            /* (K, B, 2H), the same; those of other steps are computed again */
  const void* grad_output;      /* (T, B, H), or NULL for zero */
  int64_t grad_output_strides[3];
  const void* grad_last;        /* (B, H), contiguous, or NULL for zero */
  void* grad_input;             /* (T, B, I), or NULL if not wanted */
  int64_t grad_input_strides[3];
  void* grad_h_0;               /* (B, H) */
  void* grad_kernel;            /* (I, 3H) */
  void* grad_memory;            /* (2H) or (H, 2H) */
  void* grad_bias;              /* (2H), (3H) if the candidate has one, or NULL */
} brc_gradients;

/* The instruction sets compiled in that this processor has, best first: a comma-separated list
 * whose position is `instruction_set`. */
BRC_API const char* brc_instruction_sets(void);

/* `count` layers, one upon the other: each takes the outputs of the one before. They agree in all
 * but input, input size and parameters, the sizes of all but the first being (T, B, H, H); several
 * keep no gates. output (T, B, H) contiguous: the last layer's h_t, zero where a row has ended; last
 * (count, B, H) contiguous: each row's last states; gates (K, B, 2H) contiguous: c_t and a_t - 1 for
 * the backward pass, in the input's order. Returns 0, or 1 for lack of memory. */
BRC_API int brc_forward(const brc_layer* layers, int32_t count, void* output, void* last,
                        void* gates);

/* Writes all gradients of one layer that are not NULL. Returns 0, or 1 for lack of memory. */
BRC_API int brc_backward(const brc_layer* layer, const brc_gradients* gradients);

#ifdef __cplusplus
}
#endif

#endif
