"""Labels of 6-DoF poses: what BOP and COCO files say of objects in images."""
