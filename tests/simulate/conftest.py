import pytest
import scipy.linalg  # noqa: F401  (its BLAS must be loaded to be found)
import threadpoolctl


@pytest.fixture(scope="package", autouse=True)
def one_blas_thread():
    """Thousands of products and exponentials of 5×5 matrices: waking a thread for each takes 30 times as long."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
